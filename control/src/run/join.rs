//! The part of `lighter run`'s command line that leads to a control plane.

use std::path::PathBuf;

use lighter_config::sidecar::{ControlConfig, ControlSecurity, SidecarConfig, TokenSource, is_host_and_port};

/// Said here, or by `control` in the sidecar's own file; what is said here goes before that.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Join {
    /// The control plane that the sidecar joins and follows
    #[arg(long = "control", value_name = "HOST:PORT", env = "LIGHTER_CONTROL", value_parser = address)]
    address: Option<String>,
    /// The file with the token to join with, as `lighter ca token` prints it; needed once
    #[arg(long, value_name = "FILE", env = "LIGHTER_JOIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The folder in which the sidecar's identity and what it was told outlive it; for this run alone
    #[arg(long, value_name = "DIR", env = "LIGHTER_STATE")]
    state: Option<PathBuf>,
}

impl Join {
    /// Puts it into the sidecar's configuration. Fails with what to do about it.
    pub(super) fn apply(self, config: &mut SidecarConfig) -> Result<(), String> {
        let mut control = match (config.control.take(), self.address) {
            (Some(control), None) => control,
            (Some(control), Some(address)) => ControlConfig { address, ..control },
            (None, Some(address)) => ControlConfig {
                address,
                security: match (&config.identity, &self.state) {
                    (Some(_), _) => ControlSecurity::Files,
                    (None, Some(state)) => ControlSecurity::Joined { token: None, state: state.clone() },
                    (None, None) => {
                        return Err("--control needs --state, a folder to keep an identity in".into());
                    }
                },
                own_resources: true,
                state: None,
                depends_on: Vec::new(),
            },
            (None, None) if self.token_file.is_some() || self.state.is_some() => {
                return Err(
                    "--token-file and --state are for joining a control plane: --control says which".into()
                );
            }
            (None, None) => return Ok(()),
        };
        match (&mut control.security, self.token_file) {
            (ControlSecurity::Joined { token, state }, file) => {
                *token = file.map(TokenSource::File).or(token.take());
                *state = self.state.clone().unwrap_or_else(|| std::mem::take(state));
            }
            (_, Some(_)) => return Err("--token-file: by its own file this sidecar does not join".into()),
            (_, None) => {}
        }
        control.state = self.state.or(control.state);
        config.control = Some(control);
        Ok(())
    }
}

fn address(text: &str) -> Result<String, String> {
    match is_host_and_port(text) {
        true => Ok(text.to_owned()),
        false => Err("expected for example `control.example:15010`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "10.0.0.1:15010";

    fn applied(file: &str, args: Join) -> Result<ControlConfig, String> {
        let mut config = SidecarConfig::parse("/etc/lighter/sidecar.yaml", file).unwrap();
        args.apply(&mut config).map(|()| config.control.unwrap())
    }

    fn joined(token: &str, state: &str) -> ControlSecurity {
        ControlSecurity::Joined { token: Some(TokenSource::File(token.into())), state: state.into() }
    }

    #[test]
    fn a_control_plane_is_joined_with_flags_alone() {
        let args = || Join {
            address: Some(ADDRESS.into()),
            token_file: Some("web.token".into()),
            state: Some("web".into()),
        };
        let control = applied("", args()).unwrap();
        assert_eq!((&*control.address, control.own_resources), (ADDRESS, true));
        assert_eq!((control.security, control.state), (joined("web.token", "web"), Some("web".into())));
        let error = applied("", Join { state: None, ..args() }).unwrap_err();
        assert!(error.contains("--state"), "{error}");
        let error = applied("", Join { address: None, ..args() }).unwrap_err();
        assert!(error.contains("--control"), "{error}");
    }

    #[test]
    fn flags_go_before_the_file_one_by_one() {
        let file = "control: {address: 'c:1', tokenFile: a.token, state: a, dependsOn: [reviews]}\n";
        let control = applied(file, Join::default()).unwrap();
        assert_eq!(control.security, joined("/etc/lighter/a.token", "/etc/lighter/a"));
        let control = applied(file, Join { address: Some(ADDRESS.into()), ..Join::default() }).unwrap();
        assert_eq!(control.address, ADDRESS);
        assert_eq!(control.security, joined("/etc/lighter/a.token", "/etc/lighter/a"));
        assert_eq!(control.depends_on.len(), 1);
        let args = Join { token_file: Some("b.token".into()), state: Some("b".into()), address: None };
        let control = applied(file, args).unwrap();
        assert_eq!((control.security, control.state), (joined("b.token", "b"), Some("b".into())));
    }

    #[test]
    fn who_has_an_identity_of_its_own_does_not_join() {
        let file = "identity: {certificate: a.pem, key: k.pem, bundle: b.pem}\n";
        let args = || Join { address: Some(ADDRESS.into()), ..Join::default() };
        assert_eq!(applied(file, args()).unwrap().security, ControlSecurity::Files);
        let error = applied(file, Join { token_file: Some("t".into()), ..args() }).unwrap_err();
        assert!(error.contains("--token-file"), "{error}");
    }

    #[test]
    fn a_control_plane_has_a_port() {
        assert!(address("control.example").is_err());
        assert!(address("control.example:15010").is_ok());
    }
}
