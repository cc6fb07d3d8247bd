//! The OSTree repository that every composed tree is committed to.
//!
//! Contents go in as they are composed, so a tree in memory is only names;
//! trees that share files share storage. The repository is of the kind
//! `bare-user-only`: everything belongs to root by definition, no privilege is
//! needed, and a commit's id depends on nothing but names, modes and contents.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ostree::gio::prelude::*;
use ostree::{gio, glib};

use crate::tree::{Node, Tree};

const NO_CANCEL: Option<&gio::Cancellable> = gio::Cancellable::NONE;

/// An OSTree repository.
#[derive(Debug)]
pub struct Store {
    repo: ostree::Repo,
    path: PathBuf,
}

/// What a commit says about itself.
#[derive(Debug, Clone)]
pub struct About {
    pub subject: String,
    pub version: String,
    /// In seconds since 1970: when the newest of the content was made, not when it was committed.
    pub time: u64,
}

/// A commit, read back.
#[derive(Debug)]
pub struct Commit {
    pub id: String,
    /// As in [`About`].
    pub time: u64,
    pub tree: Tree,
}

/// Why the repository did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the OSTree repository {path}")]
    Open { path: PathBuf, source: glib::Error },
    #[error("cannot make the folder of the OSTree repository {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot store {path} in the OSTree repository")]
    Write { path: String, source: glib::Error },
    #[error("cannot read {path} from the OSTree repository")]
    Read { path: String, source: glib::Error },
    #[error("cannot read the content of {path}")]
    Content { path: String, source: io::Error },
    #[error("{path} is no file")]
    NotAFile { path: String },
    #[error("{path} of the commit is neither file, link nor folder")]
    Strange { path: String },
    #[error("cannot commit to the OSTree repository")]
    Commit(#[source] glib::Error),
    #[error("the OSTree repository has no commit {revision}")]
    NoCommit {
        revision: String,
        source: glib::Error,
    },
}

impl Store {
    /// Opens the repository at `path`, making it if it is not there.
    ///
    /// # Errors
    /// When it can be neither opened nor made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let repo = ostree::Repo::new_for_path(path);
        if path.join("config").exists() {
            repo.open(NO_CANCEL).map_err(failed)?;
        } else {
            std::fs::create_dir_all(path).map_err(|source| StoreError::Folder {
                path: path.to_owned(),
                source,
            })?;
            repo.create(ostree::RepoMode::BareUserOnly, NO_CANCEL)
                .map_err(failed)?;
        }
        Ok(Self {
            repo,
            path: path.to_owned(),
        })
    }

    /// Where the repository lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` as one transaction: if it fails, nothing of it stays.
    ///
    /// # Errors
    /// Those of `work`, and when the transaction cannot be opened or closed.
    pub fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self
            .repo
            .auto_transaction(NO_CANCEL)
            .map_err(StoreError::Commit)?;
        let value = work()?;
        transaction.commit(NO_CANCEL).map_err(StoreError::Commit)?;
        Ok(value)
    }

    /// Stores a file's content and returns the node for it. Of the mode, only what can matter to
    /// files of root on a read-only root is kept: set-uid bits and write bits for others go.
    ///
    /// # Errors
    /// When the repository cannot take it; `path` is for the error alone.
    pub fn put_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<Node, StoreError> {
        let mode = mode & 0o755;
        let object = self
            .repo
            .write_regfile_inline(None, 0, 0, 0o100_000 | mode, None, content, NO_CANCEL)
            .map_err(|source| StoreError::Write {
                path: path.to_owned(),
                source,
            })?;
        Ok(Node::File {
            mode,
            object: object.into(),
            size: content.len() as u64,
        })
    }

    /// Opens the content of a file of a tree.
    ///
    /// # Errors
    /// When the repository does not have it.
    pub fn reader(&self, path: &str, object: &str) -> Result<impl Read + use<>, StoreError> {
        let failed = |source| StoreError::Read {
            path: path.to_owned(),
            source,
        };
        let (stream, _, _) = self.repo.load_file(object, NO_CANCEL).map_err(failed)?;
        let stream = stream.ok_or_else(|| StoreError::NotAFile {
            path: path.to_owned(),
        })?;
        Ok(stream.into_read())
    }

    /// Returns the content of the file at `path`, links followed.
    ///
    /// # Errors
    /// When there is no file there, or it cannot be read.
    pub fn read(&self, tree: &Tree, path: &str) -> Result<Vec<u8>, StoreError> {
        let not_a_file = || StoreError::NotAFile {
            path: path.to_owned(),
        };
        let (_, node) = tree.follow(path).map_err(|_| not_a_file())?;
        let Node::File { object, .. } = node else {
            return Err(not_a_file());
        };
        let mut content = Vec::new();
        self.reader(path, object)?
            .read_to_end(&mut content)
            .map_err(|source| StoreError::Content {
                path: path.to_owned(),
                source,
            })?;
        Ok(content)
    }

    /// Lays out in `folder` what of the tree `wanted` says yes to, for a program to work on.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn export(
        &self,
        tree: &Tree,
        folder: &Path,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        for (path, node) in tree.iter().filter(|(path, _)| wanted(path)) {
            let target = folder.join(path.trim_start_matches('/'));
            let content = |source| StoreError::Content {
                path: target.display().to_string(),
                source,
            };
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).map_err(content)?;
            }
            match node {
                Node::Directory { .. } => std::fs::create_dir_all(&target).map_err(content)?,
                Node::Link { target: to } => {
                    std::os::unix::fs::symlink(to, &target).map_err(content)?;
                }
                Node::File { object, .. } => {
                    let mut from = self.reader(path, object)?;
                    let mut to = std::fs::File::create(&target).map_err(content)?;
                    io::copy(&mut from, &mut to).map_err(content)?;
                }
            }
        }
        Ok(())
    }

    /// Commits a tree and points the branch at it. The commit's id is the same for the same tree,
    /// description, whenever it is made. Call within a [transaction](Self::transaction).
    ///
    /// # Errors
    /// When the repository cannot take it.
    pub fn commit(&self, tree: &Tree, branch: &str, about: &About) -> Result<String, StoreError> {
        let root = ostree::MutableTree::new();
        root.set_metadata_checksum(&self.put_folder("/", 0o755)?);
        // A tree lists folders before their content.
        let mut folders = HashMap::from([(String::new(), root.clone())]);
        for (path, node) in tree.iter() {
            let failed = |source| StoreError::Write {
                path: path.to_owned(),
                source,
            };
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let Some(parent) = folders.get(folder) else {
                return Err(StoreError::Strange {
                    path: path.to_owned(),
                });
            };
            match node {
                Node::Directory { mode } => {
                    let child = parent.ensure_dir(name).map_err(failed)?;
                    child.set_metadata_checksum(&self.put_folder(path, *mode)?);
                    folders.insert(path.to_owned(), child);
                }
                Node::File { object, .. } => parent.replace_file(name, object).map_err(failed)?,
                Node::Link { target } => {
                    let object = self
                        .repo
                        .write_symlink(None, 0, 0, None, target, NO_CANCEL)
                        .map_err(failed)?;
                    parent.replace_file(name, &object).map_err(failed)?;
                }
            }
        }
        let root = self
            .repo
            .write_mtree(&root, NO_CANCEL)
            .map_err(StoreError::Commit)?
            .downcast::<ostree::RepoFile>()
            .map_err(|_| StoreError::Strange { path: "/".into() })?;
        let metadata = glib::VariantDict::new(None);
        metadata.insert("version", about.version.as_str());
        let commit = self
            .repo
            .write_commit_with_time(
                None,
                Some(&about.subject),
                None,
                Some(&metadata.end()),
                &root,
                about.time,
                NO_CANCEL,
            )
            .map_err(StoreError::Commit)?;
        self.repo.transaction_set_ref(None, branch, Some(&commit));
        Ok(commit.into())
    }

    /// Says whether there is a commit of this name.
    pub fn has(&self, revision: &str) -> bool {
        self.repo
            .resolve_rev(revision, true)
            .is_ok_and(|commit| commit.is_some())
    }

    /// Reads a commit, by its id or its branch.
    ///
    /// # Errors
    /// When there is no such commit or it is damaged.
    pub fn load(&self, revision: &str) -> Result<Commit, StoreError> {
        let no_commit = |source| StoreError::NoCommit {
            revision: revision.to_owned(),
            source,
        };
        let commit = self.repo.require_rev(revision).map_err(no_commit)?;
        let root = ostree::MutableTree::from_commit(&self.repo, &commit).map_err(no_commit)?;
        let (variant, _) = self.repo.load_commit(&commit).map_err(no_commit)?;
        let mut tree = Tree::default();
        self.load_folder("", &root, &mut tree)?;
        Ok(Commit {
            id: commit.into(),
            time: ostree::commit_get_timestamp(&variant),
            tree,
        })
    }

    fn load_folder(
        &self,
        folder: &str,
        from: &ostree::MutableTree,
        tree: &mut Tree,
    ) -> Result<(), StoreError> {
        let strange = |path: &str| StoreError::Strange {
            path: path.to_owned(),
        };
        for (name, object) in from.copy_files() {
            let path = format!("{folder}/{name}");
            let (info, _) =
                self.repo
                    .query_file(&object, NO_CANCEL)
                    .map_err(|source| StoreError::Read {
                        path: path.clone(),
                        source,
                    })?;
            // The kind first: GLib complains aloud when a file is asked for its target.
            let kind = info.file_type();
            let node = if kind == gio::FileType::SymbolicLink {
                let target = info.symlink_target().ok_or_else(|| strange(&path))?;
                Node::Link {
                    target: target.to_string_lossy().into_owned(),
                }
            } else if kind == gio::FileType::Regular {
                Node::File {
                    mode: info.attribute_uint32("unix::mode") & 0o7777,
                    object,
                    size: u64::try_from(info.size()).map_err(|_| strange(&path))?,
                }
            } else {
                return Err(strange(&path));
            };
            tree.insert(&path, node).map_err(|_| strange(&path))?;
        }
        for (name, child) in from.copy_subdirs() {
            let path = format!("{folder}/{name}");
            let mode = self
                .repo
                .read_dirmeta(&child.metadata_checksum())
                .map_err(|source| StoreError::Read {
                    path: path.clone(),
                    source,
                })?
                .mode;
            let mode = mode & 0o7777;
            tree.insert(&path, Node::Directory { mode })
                .map_err(|_| strange(&path))?;
            self.load_folder(&path, &child, tree)?;
        }
        Ok(())
    }

    /// Stores a folder's mode and returns the name of that object.
    fn put_folder(&self, path: &str, mode: u32) -> Result<String, StoreError> {
        let info = gio::FileInfo::new();
        info.set_attribute_uint32("unix::uid", 0);
        info.set_attribute_uint32("unix::gid", 0);
        info.set_attribute_uint32("unix::mode", 0o040_000 | mode);
        let metadata = ostree::create_directory_metadata(&info, None);
        self.repo
            .write_metadata(ostree::ObjectType::DirMeta, None, &metadata, NO_CANCEL)
            .map(|object| object.to_string())
            .map_err(|source| StoreError::Write {
                path: path.to_owned(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_read_back_without_a_complaint_of_glib() {
        // Ends the test program at a complaint; GLib has those since 2.76.
        glib::log_set_always_fatal(glib::LogLevels::LEVEL_CRITICAL);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut tree = Tree::default();
        let file = store.put_file("/usr/a", 0o755, b"text").unwrap();
        let link = Node::Link { target: "a".into() };
        tree.insert("/usr", Node::Directory { mode: 0o700 })
            .unwrap();
        tree.insert("/usr/a", file).unwrap();
        tree.insert("/usr/b", link).unwrap();
        let about = About {
            subject: "a test".into(),
            version: "1".into(),
            time: 7,
        };
        let id = store
            .transaction(|| store.commit(&tree, "branch", &about))
            .unwrap();
        let commit = store.load("branch").unwrap();
        assert_eq!((commit.id, commit.time), (id, 7));
        let list = |tree: &Tree| {
            tree.iter()
                .map(|entry| format!("{entry:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(list(&commit.tree), list(&tree));
    }
}
