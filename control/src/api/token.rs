//! The operator's token: whoever has it may change everything.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Random bytes of a token that is made here.
const BYTES: usize = 32;
/// Fewest characters of a token that someone wrote.
const FEWEST: usize = 16;

/// What is kept of a token: its hash, which is all it takes to know it again.
pub struct Token([u8; 32]);

impl Token {
    /// Reads the token's file, or makes one with a new token, readable by its owner alone.
    pub fn open(path: &Path) -> io::Result<Token> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let token = random()?;
                writeln!(file, "{token}").and_then(|()| file.sync_all()).inspect_err(|_| {
                    // Half a token would be found the next time.
                    let _ = std::fs::remove_file(path);
                })?;
                Ok(Token::of(&token))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            Err(error) => Err(error),
        }
    }

    /// Whether `offered` is this token. It takes the same time whichever of its characters are wrong.
    pub fn is(&self, offered: &str) -> bool {
        let differences = self.0.iter().zip(Token::of(offered).0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differences) == 0
    }

    fn of(text: &str) -> Token {
        Token(Sha256::digest(text.as_bytes()).into())
    }

    fn read(path: &Path) -> io::Result<Token> {
        let mut file = File::open(path)?;
        // Of the file that is read, and not of what may lie there by then.
        let mode = file.metadata()?.mode();
        if mode & 0o077 != 0 {
            let said =
                format!("others can read it (mode {:o}); take that from them with chmod 600", mode & 0o777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        match text.trim() {
            token if token.len() >= FEWEST => Ok(Token::of(token)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a token has at least {FEWEST} characters"),
            )),
        }
    }
}

/// A new token, in hexadecimal digits.
fn random() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator-token");
        let made = Token::open(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 2 * BYTES);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = Token::open(&path).unwrap();
        for token in [made, read] {
            assert!(token.is(text.trim()));
            assert!(!token.is("") && !token.is(&text.trim()[1..]) && !token.is(&text.trim().to_uppercase()));
        }
    }

    #[test]
    fn a_token_that_others_can_read_or_guess_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator-token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::open(&path).err().unwrap().to_string().contains("mode 644"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Token::open(&path).unwrap().is("0123456789abcdef"));
        std::fs::write(&path, "secret\n").unwrap();
        assert!(Token::open(&path).is_err());
    }
}
