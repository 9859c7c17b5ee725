//! Commands of this binary, as whoever runs a mesh types them.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::child::end_with_parent;
use super::say;

/// What this binary says when it is run with `arguments`, with these variables and this as its standard input. A status other than
/// 0 is an error.
pub async fn lighter(
    arguments: &[&str],
    environment: &[(&str, String)],
    input: &str,
) -> Result<String, String> {
    let own = std::env::current_exe().map_err(say("this program"))?;
    let mut command = Command::new(own);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    end_with_parent(command.as_std_mut());
    let mut child = command.spawn().map_err(say("lighter"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read all says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(say("lighter"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(format!("lighter {}: {}", arguments.join(" "), errors.trim()))
        }
    }
}
