//! `lighter version`: what this binary is.

use serde::Serialize;

use crate::exit::Exit;
use crate::output;

/// Arguments of `lighter version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

/// What this binary is.
#[derive(Debug, Serialize)]
pub struct Version {
    /// The release.
    pub version: &'static str,
    /// The commit it was built from, where that was known.
    pub commit: Option<&'static str>,
    /// The target triple.
    pub target: &'static str,
    /// `debug` or `release`, as cargo calls the profile's base.
    pub profile: &'static str,
    /// Who hands out memory.
    pub allocator: &'static str,
    /// The cargo features that are built in.
    pub features: Vec<&'static str>,
}

impl Version {
    /// This binary.
    pub fn current() -> Self {
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        Version {
            version: env!("CARGO_PKG_VERSION"),
            commit: some(env!("LIGHTER_BUILD_COMMIT")),
            target: env!("LIGHTER_BUILD_TARGET"),
            profile: env!("LIGHTER_BUILD_PROFILE"),
            allocator: "system",
            features: some(env!("LIGHTER_BUILD_FEATURES"))
                .map(|all| all.split(',').collect())
                .unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "lighter   {}", self.version)?;
        writeln!(f, "commit    {}", self.commit.unwrap_or("not known"))?;
        writeln!(f, "target    {}", self.target)?;
        writeln!(f, "profile   {}", self.profile)?;
        writeln!(f, "allocator {}", self.allocator)?;
        match &*self.features {
            [] => write!(f, "features  none"),
            some => write!(f, "features  {}", some.join(" ")),
        }
    }
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let version = Version::current();
    if args.json {
        output::json(&version)?
    } else {
        output::line(&version)?
    }
    Ok(Exit::Ok)
}
