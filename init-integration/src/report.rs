//! How errors are shown.

use std::error::Error;
use std::fmt;

/// Shows an error with everything that caused it, in one line.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot mount /dev/dm-0")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn the_whole_chain_is_shown_once() {
        let error = Outer {
            source: std::io::Error::from_raw_os_error(19),
        };
        assert_eq!(
            Chain(&error).to_string(),
            "cannot mount /dev/dm-0: No such device (os error 19)"
        );
    }
}
