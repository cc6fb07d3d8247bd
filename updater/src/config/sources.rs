use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::ReadConfigError;

/// The defaults of the image.
pub const DEFAULTS: &str = "/usr/lib/bistable/updater.toml";
/// The name of the systemd credential with the same keys.
pub const CREDENTIAL: &str = "bistable.updater.toml";

/// The node's own settings.
const OVERRIDES: &str = "/etc/bistable/updater.toml";
/// Folders of drop-ins; a file in the second one takes the place of the first
/// one's of the same name.
const DROP_INS: [&str; 2] = ["/usr/lib/bistable/updater.d", "/etc/bistable/updater.d"];

/// Where settings lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// In these files, the later ones overriding the earlier.
    Files(Vec<PathBuf>),
    /// Where a node has them.
    Node {
        /// Read first, in this order.
        main: Vec<PathBuf>,
        /// Drop-ins are read next, by their names' order; a later folder's file
        /// masks an earlier one's of the same name.
        drop_ins: Vec<PathBuf>,
        /// Read last: it reaches a node from outside (a cloud's metadata,
        /// SMBIOS) without a shell on it.
        credential: Option<PathBuf>,
    },
}

impl Sources {
    /// Returns the places of a node to which systemd handed its credentials in
    /// the folder `credentials`.
    pub fn of_node(credentials: Option<OsString>) -> Self {
        Self::Node {
            main: vec![DEFAULTS.into(), OVERRIDES.into()],
            drop_ins: DROP_INS.map(PathBuf::from).to_vec(),
            credential: credentials.map(|folder| Path::new(&folder).join(CREDENTIAL)),
        }
    }

    /// Lists the files to read, the later ones overriding the earlier. Some may
    /// not be there.
    ///
    /// # Errors
    /// A folder that is there and cannot be read may hold what forbids something.
    pub fn files(&self) -> Result<Vec<PathBuf>, ReadConfigError> {
        match self {
            Self::Files(files) => Ok(files.clone()),
            Self::Node {
                main,
                drop_ins,
                credential,
            } => {
                let mut by_name = BTreeMap::new();
                for folder in drop_ins {
                    by_name.extend(list(folder)?);
                }
                let all = main.iter().cloned();
                Ok(all
                    .chain(by_name.into_values())
                    .chain(credential.clone())
                    .collect())
            }
        }
    }
}

fn list(folder: &Path) -> Result<Vec<(OsString, PathBuf)>, ReadConfigError> {
    let failed = |source| ReadConfigError::List {
        folder: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.path().extension().is_some_and(|end| end == "toml") {
            files.push((entry.file_name(), entry.path()));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(files: &[PathBuf], below: &Path) -> Vec<String> {
        let name = |file: &PathBuf| file.strip_prefix(below).unwrap().display().to_string();
        files.iter().map(name).collect()
    }

    #[test]
    fn drop_ins_are_read_by_name_and_those_of_etc_take_the_place_of_the_images() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in ["usr", "etc"] {
            std::fs::create_dir(place(name)).unwrap();
        }
        for name in [
            "usr/10-a.toml",
            "usr/20-b.toml",
            "usr/40-d.toml",
            "usr/50-e.toml.orig",
            "etc/20-b.toml",
            "etc/30-c.toml",
            "etc/README",
        ] {
            std::fs::write(place(name), "").unwrap();
        }
        let sources = Sources::Node {
            main: vec![place("usr.toml"), place("etc.toml")],
            drop_ins: vec![place("usr"), place("etc"), place("not-there")],
            credential: Some(place("credential.toml")),
        };
        assert_eq!(
            shown(&sources.files().unwrap(), folder.path()),
            [
                "usr.toml",
                "etc.toml",
                "usr/10-a.toml",
                "etc/20-b.toml",
                "etc/30-c.toml",
                "usr/40-d.toml",
                "credential.toml"
            ]
        );
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let sources = Sources::Node {
            main: vec![],
            drop_ins: vec![file.clone()],
            credential: None,
        };
        let error = sources.files().unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()));
    }
}
