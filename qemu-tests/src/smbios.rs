//! What is handed to a node from outside: systemd credentials in SMBIOS strings.
//!
//! The firmware's tables are the one door through which a story reaches into
//! the shipped image, so the image itself needs no hole for tests. It is the
//! door a cloud uses too: whoever owns the hypervisor owns the node.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A set of credentials, units and drop-ins for one node.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    credentials: Vec<(String, Vec<u8>)>,
    wants: BTreeMap<String, Vec<String>>,
}

impl Handed {
    /// Hands in the credential `name`.
    #[must_use]
    pub fn credential(mut self, name: &str, content: &str) -> Self {
        self.credentials.push((name.into(), content.into()));
        self
    }

    /// Hands in a whole unit.
    #[must_use]
    pub fn unit(self, name: &str, content: &str) -> Self {
        self.credential(&format!("systemd.extra-unit.{name}"), content)
    }

    /// Hands in a drop-in for `unit`, which may have one only, and none of its wishes
    /// (see [`Self::wanted_by`]).
    #[must_use]
    pub fn drop_in(self, unit: &str, content: &str) -> Self {
        self.credential(&format!("systemd.unit-dropin.{unit}"), content)
    }

    /// Has `target` want `unit`, so that it is started at boot.
    #[must_use]
    pub fn wanted_by(mut self, target: &str, unit: &str) -> Self {
        self.wants
            .entry(target.into())
            .or_default()
            .push(unit.into());
        self
    }

    /// Writes the strings below `folder` and returns QEMU's arguments for them.
    ///
    /// They go by file: a command line is limited, and would show in `ps`.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut arguments = Vec::new();
        // A unit can be given one drop-in only, hence all its wishes in one.
        let drop_ins = self.wants.iter().map(|(target, units)| {
            let content = format!("[Unit]\nWants={}\n", units.join(" "));
            (
                format!("systemd.unit-dropin.{target}"),
                content.into_bytes(),
            )
        });
        for (index, (name, content)) in self.credentials.iter().cloned().chain(drop_ins).enumerate()
        {
            let path = folder.join(format!("{index}.smbios"));
            let text = format!("io.systemd.credential.binary:{name}={}", base64(&content));
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            arguments.push("-smbios".into());
            arguments.push(format!("type=11,path={}", path.display()));
        }
        Ok(arguments)
    }
}

/// Returns `bytes` in base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u32| {
        DIGITS
            .get((value & 63) as usize)
            .copied()
            .map_or('=', char::from)
    };
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let value = group
            .iter()
            .fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        let value = value << (8 * (3 - group.len()));
        for place in 0..4 {
            text.push(if place <= group.len() {
                digit(value >> (18 - 6 * place))
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn a_unit_from_outside_goes_by_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let arguments = Handed::default()
            .unit("a.service", "[Service]\n")
            .write(folder.path())
            .expect("written");
        let path = folder.path().join("0.smbios");
        assert_eq!(
            arguments,
            ["-smbios".into(), format!("type=11,path={}", path.display())]
        );
        let text = fs::read_to_string(path).expect("the file");
        assert_eq!(
            text,
            "io.systemd.credential.binary:systemd.extra-unit.a.service=W1NlcnZpY2VdCg=="
        );
    }

    #[test]
    fn all_that_a_target_wants_is_one_drop_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let handed = Handed::default()
            .wanted_by("x.target", "a.service")
            .wanted_by("x.target", "b.service");
        assert_eq!(handed.write(folder.path()).expect("written").len(), 2);
        let text = fs::read_to_string(folder.path().join("0.smbios")).expect("the file");
        let content = base64(b"[Unit]\nWants=a.service b.service\n");
        assert_eq!(
            text,
            format!("io.systemd.credential.binary:systemd.unit-dropin.x.target={content}")
        );
    }
}
