//! What is to be checked on this node, read from its folders.
//!
//! Folders are given from the weakest to the strongest, `/usr/lib/bistable` and then
//! `/etc/bistable`. In each, `health.toml` is the policy, key by key, and `health.d/*.toml` are
//! checks: one replaces a weaker folder's of the same name, and an empty one removes it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::declaration::{Declaration, parse_policy};
use super::gate::Policy;
use super::keys::BadDeclaration;

/// The policy of a node that declares none: a boot takes half a minute, a node that
/// joins its cluster a few more.
pub const DEFAULT_POLICY: Policy = Policy {
    soak: Duration::from_secs(15),
    deadline: Duration::from_secs(300),
};

/// The names of the checks that are always made.
pub const BUILT_IN: [&str; 7] = [
    "failed-units",
    "starting-units",
    "containerd-api",
    "updater",
    "network",
    "image",
    "configuration",
];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Declaration(#[from] BadDeclaration),
    #[error("{path}: {name} is the name of a built-in check")]
    BuiltIn { path: PathBuf, name: String },
}

/// What the folders declare.
#[derive(Debug)]
pub struct Configuration {
    pub policy: Policy,
    /// By name. A file that cannot be used is a check that never holds, so that a
    /// release with a broken check fails its trial and says why.
    pub checks: BTreeMap<String, Result<Declaration, BadFile>>,
    /// What is wrong beside the checks.
    pub mistakes: Vec<BadFile>,
}

impl Configuration {
    /// Reads `folders`, of which any may be absent.
    pub fn read(folders: &[PathBuf]) -> Self {
        let mut configuration = Self {
            policy: DEFAULT_POLICY,
            checks: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        for folder in folders {
            configuration.read_policy(&folder.join("health.toml"));
            configuration.read_checks(&folder.join("health.d"));
        }
        configuration
    }

    /// Returns everything that is wrong.
    pub fn problems(&self) -> impl Iterator<Item = &BadFile> {
        self.mistakes.iter().chain(
            self.checks
                .values()
                .filter_map(|check| check.as_ref().err()),
        )
    }

    fn read_policy(&mut self, path: &Path) {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            outcome => outcome.map_err(|source| BadFile::Read {
                path: path.to_owned(),
                source,
            }),
        };
        match text.and_then(|text| Ok(parse_policy(path, &text, self.policy)?)) {
            Ok(policy) => self.policy = policy,
            Err(mistake) => self.mistakes.push(mistake),
        }
    }

    fn read_checks(&mut self, folder: &Path) {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            outcome => outcome.and_then(Iterator::collect::<io::Result<Vec<_>>>),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(source) => {
                self.mistakes.push(BadFile::Read {
                    path: folder.to_owned(),
                    source,
                });
                return;
            }
        };
        for entry in entries {
            let path = entry.path();
            if path.extension() != Some(OsStr::new("toml")) {
                continue;
            }
            let Some(name) = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
            else {
                continue;
            };
            match read_check(&path, &name) {
                Ok(None) => self.checks.remove(&name),
                Ok(Some(check)) => self.checks.insert(name, Ok(check)),
                Err(mistake) => self.checks.insert(name, Err(mistake)),
            };
        }
    }
}

/// Returns the check in the file at `path`; none when the file masks it.
fn read_check(path: &Path, name: &str) -> Result<Option<Declaration>, BadFile> {
    if BUILT_IN.contains(&name) {
        return Err(BadFile::BuiltIn {
            path: path.to_owned(),
            name: name.to_owned(),
        });
    }
    // A link to /dev/null reads as empty, and masks too.
    let text = fs::read_to_string(path).map_err(|source| BadFile::Read {
        path: path.to_owned(),
        source,
    })?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(Declaration::parse(path, &text)?))
}

#[cfg(test)]
mod tests {
    use super::super::declaration::Check;
    use super::*;

    struct Folders {
        root: tempfile::TempDir,
    }

    impl Folders {
        fn new(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self { root }
        }

        fn read(&self) -> Configuration {
            Configuration::read(&[self.root.path().join("usr"), self.root.path().join("etc")])
        }
    }

    const WEB: &str = "kind = 'unit'\nunit = 'web.service'\n";

    #[test]
    fn nothing_declared_is_the_default() {
        let configuration = Folders::new(&[]).read();
        assert_eq!(configuration.policy, DEFAULT_POLICY);
        assert!(configuration.checks.is_empty());
        assert_eq!(configuration.problems().count(), 0);
    }

    #[test]
    fn the_same_name_in_a_stronger_folder_replaces_and_an_empty_one_masks() {
        let configuration = Folders::new(&[
            ("usr/health.toml", "soak = '5s'\ndeadline = '2min'\n"),
            ("etc/health.toml", "soak = '7s'\n"),
            ("usr/health.d/web.toml", WEB),
            ("usr/health.d/old.toml", WEB),
            ("usr/health.d/notes.txt", "no check"),
            (
                "etc/health.d/web.toml",
                "kind = 'unit'\nunit = 'nginx.service'\n",
            ),
            ("etc/health.d/old.toml", ""),
        ])
        .read();
        assert_eq!(configuration.problems().count(), 0);
        assert_eq!(
            (
                configuration.policy.soak.as_secs(),
                configuration.policy.deadline.as_secs()
            ),
            (7, 120)
        );
        let names: Vec<_> = configuration.checks.keys().collect();
        assert_eq!(names, ["web"]);
        let check = &configuration.checks["web"].as_ref().unwrap().check;
        assert_eq!(
            check,
            &Check::Unit {
                unit: "nginx.service".to_owned()
            }
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_is_a_problem_and_stays_a_check() {
        let folders = Folders::new(&[
            ("usr/health.toml", "soak = 'long'\n"),
            ("usr/health.d/web.toml", "kind = 'unit'\n"),
            ("usr/health.d/image.toml", WEB),
            ("usr/health.d/binary.toml", "x"),
        ]);
        fs::write(
            folders.root.path().join("usr/health.d/binary.toml"),
            [0xff, 0xfe],
        )
        .unwrap();
        let configuration = folders.read();
        assert!(configuration.checks.values().all(Result::is_err));
        let problems: Vec<String> = configuration.problems().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].contains("health.toml:1: soak"), "{problems:?}");
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains("web.toml: unit: is missing")),
            "{problems:?}"
        );
        assert!(
            problems.iter().any(|problem| problem.contains("built-in")),
            "{problems:?}"
        );
    }
}
