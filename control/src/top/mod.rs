//! `lighter top`: what a sidecar does right now, route by route.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lighter_config::resource;
use miette::miette;

use crate::exit::Exit;
use crate::{ask, output};
use reading::Reading;
use refresh::{Moment, Refresh, Sort, Watch};

mod reading;
mod refresh;
mod show;

/// Arguments of `lighter top`.
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub struct Args {
    /// The sidecar's admin port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// The time between two refreshes, as in 500ms or 5s
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    interval: Duration,
    /// How many refreshes [default: until it is interrupted]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Which routes come first
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
    sort: Sort,
    /// Write each refresh as JSON on a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let mut before = Instant::now();
    let mut watch = Watch::begin(read(args.admin)?, args.sort);
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        std::thread::sleep((before + args.interval).saturating_duration_since(Instant::now()));
        let (at, reading) = read_again(args.admin)?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let moment = Moment { interval: at.duration_since(before).as_secs_f64(), time };
        show(args, &watch.next(reading, moment), shown == 0)?;
        before = at;
        shown += 1;
    }
    Ok(Exit::Ok)
}

fn read(admin: SocketAddr) -> miette::Result<Reading> {
    let text = ask::get(admin, "/metrics").map_err(|error| {
        miette!(help = ask::IS_IT_THERE, "the admin port at {admin} cannot be read: {error}")
    })?;
    Reading::of(&text).ok_or_else(|| {
        miette!(
            help = "--admin says where the admin port of a sidecar is",
            "what answers at {admin} has no metrics of a sidecar"
        )
    })
}

/// A further reading, and when it was asked for. A sidecar that was there may be about to start anew: it has some time
/// to come back.
fn read_again(admin: SocketAddr) -> miette::Result<(Instant, Reading)> {
    let start = Instant::now();
    loop {
        let at = Instant::now();
        match read(admin) {
            Err(_) if start.elapsed() < AWAY => std::thread::sleep(PAUSE),
            found => return Ok((at, found?)),
        }
    }
}

fn show(args: &Args, refresh: &Refresh, first: bool) -> miette::Result<()> {
    if args.json {
        output::line(show::json(args.admin, refresh))?;
        return Ok(());
    }
    let text = show::text(args.admin, refresh);
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        let text = match rustix::termios::tcgetwinsize(&stdout) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                show::fit(&text, size.ws_col.into(), size.ws_row.into())
            }
            _ => text,
        };
        output::line(format_args!("{CLEAR}{text}"))?;
    } else {
        output::line(format_args!("{}{text}", if first { "" } else { "\n" }))?;
    }
    Ok(())
}

fn interval(text: &str) -> Result<Duration, String> {
    match resource::Duration::parse(text) {
        Some(resource::Duration(interval)) if (SHORTEST..=LONGEST).contains(&interval) => Ok(interval),
        _ => Err("expected for example `500ms` or `5s`, between 100ms and 1h".to_owned()),
    }
}

/// What the table says.
const COLUMNS: &str = "\
Everything but OPEN is of the time since the refresh before.
  ENDED      requests and opaque connections that ended
  SUCCESS    those of them that did not fail: one fails that was answered with 5xx, or that has a cause in the metrics
             for not ending well, whatever its status; a gRPC status of the service itself does not count
  P50, P99   latency from a request's head to its answer's head, of those that ended well
  OPEN       requests and opaque connections under way
  RETRIES    how often a request was tried again
  IN, OUT    bytes of bodies from the caller and to it; those of opaque connections count as these end
Routes that carried nothing since the command began are left out.";

/// The cursor to the first place of the screen, and nothing on it (ECMA-48: CUP, ED).
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// A sidecar has to write all its metrics each time.
const SHORTEST: Duration = Duration::from_millis(100);
/// Nobody watches for longer on purpose.
const LONGEST: Duration = Duration::from_secs(3600);

/// How long a sidecar that was there may be away.
const AWAY: Duration = Duration::from_secs(10);
/// How long it is left alone meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_time_that_makes_sense() {
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(interval("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "1", "0s", "99ms", "61m", "-1s", "1d"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
