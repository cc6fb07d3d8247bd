//! A root tree while it is composed: names and kinds, with contents kept in
//! the [`Store`](crate::store::Store).

use std::collections::BTreeMap;

/// How many symbolic links a path may lead through, as the kernel allows.
const MAX_LINKS: usize = 40;

/// One thing in a tree. Everything belongs to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory {
        mode: u32,
    },
    File {
        mode: u32,
        object: String,
        size: u64,
    },
    Link {
        target: String,
    },
}

/// A root tree; paths are absolute, without dots or links in their folders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Node>);

/// Why something has no place in a tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TreeError {
    #[error("{path} leads out of the tree")]
    Escapes { path: String },
    #[error("{path} leads through too many symbolic links")]
    TooManyLinks { path: String },
    #[error("{path} needs {folder} to be a folder, which it is not")]
    NotAFolder { path: String, folder: String },
    #[error("{path} is a folder and cannot be replaced")]
    IsAFolder { path: String },
    #[error("{path} is not in the tree")]
    Missing { path: String },
}

impl Tree {
    /// Everything in the tree, folders before what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// What lies at `path` itself, links in its folders followed.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(&self.resolve_folders(path).ok()?)
    }

    /// What lies below a folder, its own entry not among it.
    pub fn below<'a>(
        &'a self,
        folder: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        self.0
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, node)| (path.as_str(), node))
    }

    /// Puts a node at `path`, making the folders that it needs. A folder over a folder takes
    /// the new mode; a folder over a link to one is already there; a file or link replaces a
    /// file or link.
    ///
    /// # Errors
    /// When the path leads through something that is no folder, or a folder
    /// would be replaced.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<(), TreeError> {
        let place = self.resolve_folders(path)?;
        if place == "/" {
            return Ok(());
        }
        self.make_folders(&place)?;
        match (self.0.get(&place), &node) {
            (Some(Node::Directory { .. }), Node::File { .. } | Node::Link { .. }) => {
                return Err(TreeError::IsAFolder { path: place });
            }
            // Packages ship "/lib/…" as a folder; here it is a link to "/usr/lib".
            (Some(Node::Link { .. }), Node::Directory { .. }) => return Ok(()),
            (Some(Node::File { .. }), Node::Directory { .. }) => {
                return Err(TreeError::NotAFolder {
                    path: path.to_owned(),
                    folder: place,
                });
            }
            _ => {}
        }
        self.0.insert(place, node);
        Ok(())
    }

    /// Takes away `path` and everything below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0
            .retain(|place, _| place != path && !place.starts_with(&below));
    }

    /// Keeps only what `keep` says yes to; empty folders stay.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        self.0.retain(|path, node| keep(path, node));
    }

    /// Follows every link of `path`, the last one too, and returns where it ends.
    ///
    /// # Errors
    /// When there is nothing at the end, or no end.
    pub fn follow(&self, path: &str) -> Result<(String, &Node), TreeError> {
        let mut place = self.resolve_folders(path)?;
        for _ in 0..MAX_LINKS {
            match self.0.get(&place) {
                Some(Node::Link { target }) => {
                    place = self.resolve_folders(&join(&place, target))?;
                }
                Some(node) => return Ok((place, node)),
                None => {
                    return Err(TreeError::Missing {
                        path: path.to_owned(),
                    });
                }
            }
        }
        Err(TreeError::TooManyLinks {
            path: path.to_owned(),
        })
    }

    /// Returns `path` with the links among its folders followed and its dots gone.
    fn resolve_folders(&self, path: &str) -> Result<String, TreeError> {
        let mut todo: Vec<String> = components_reversed(path);
        let mut done = String::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                match done.rfind('/') {
                    Some(at) => done.truncate(at),
                    None => {
                        return Err(TreeError::Escapes {
                            path: path.to_owned(),
                        });
                    }
                }
                continue;
            }
            let next = format!("{done}/{name}");
            match self.0.get(&next) {
                Some(Node::Link { target }) if !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(TreeError::TooManyLinks {
                            path: path.to_owned(),
                        });
                    }
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(components_reversed(target));
                }
                _ => done = next,
            }
        }
        if done.is_empty() {
            done.push('/');
        }
        Ok(done)
    }

    fn make_folders(&mut self, place: &str) -> Result<(), TreeError> {
        for (at, _) in place.match_indices('/').skip(1) {
            let folder = place.get(..at).unwrap_or_default();
            match self.0.get(folder) {
                Some(Node::Directory { .. }) => {}
                Some(Node::File { .. } | Node::Link { .. }) => {
                    return Err(TreeError::NotAFolder {
                        path: place.to_owned(),
                        folder: folder.to_owned(),
                    });
                }
                None => {
                    self.0
                        .insert(folder.to_owned(), Node::Directory { mode: 0o755 });
                }
            }
        }
        Ok(())
    }
}

/// Returns where a link at `place` points to, as an absolute path that may still hold dots.
fn join(place: &str, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{target}")
}

fn components_reversed(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|part| !part.is_empty() && *part != ".")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Node {
        Node::File {
            mode: 0o644,
            object: "x".into(),
            size: 1,
        }
    }

    fn link(target: &str) -> Node {
        Node::Link {
            target: target.into(),
        }
    }

    #[test]
    fn a_package_that_ships_lib_lands_in_usr_lib() {
        let mut tree = Tree::default();
        tree.insert("/usr/lib", Node::Directory { mode: 0o755 })
            .unwrap();
        tree.insert("/lib", link("usr/lib")).unwrap();
        tree.insert("/lib", Node::Directory { mode: 0o755 })
            .unwrap();
        tree.insert("/lib/systemd/x", file()).unwrap();
        assert_eq!(tree.get("/lib"), Some(&link("usr/lib")));
        assert_eq!(tree.get("/usr/lib/systemd/x"), Some(&file()));
        assert_eq!(tree.get("/lib/systemd/x"), Some(&file()));
    }

    #[test]
    fn links_are_followed_to_their_end_and_loops_are_refused() {
        let mut tree = Tree::default();
        tree.insert("/usr/bin/real", file()).unwrap();
        tree.insert("/etc/alternatives/x", link("/usr/bin/real"))
            .unwrap();
        tree.insert("/usr/sbin/x", link("../../etc/alternatives/x"))
            .unwrap();
        assert_eq!(tree.follow("/usr/sbin/x").unwrap().0, "/usr/bin/real");
        tree.insert("/a", link("b")).unwrap();
        tree.insert("/b", link("a")).unwrap();
        assert!(matches!(
            tree.follow("/a"),
            Err(TreeError::TooManyLinks { .. })
        ));
        assert!(matches!(
            tree.follow("/../x"),
            Err(TreeError::Escapes { .. })
        ));
        assert!(matches!(
            tree.follow("/none"),
            Err(TreeError::Missing { .. })
        ));
    }

    #[test]
    fn a_folder_is_never_replaced_by_a_file() {
        let mut tree = Tree::default();
        tree.insert("/etc/x/y", file()).unwrap();
        assert!(matches!(
            tree.insert("/etc/x", file()),
            Err(TreeError::IsAFolder { .. })
        ));
        assert!(matches!(
            tree.insert("/etc/x/y/z", file()),
            Err(TreeError::NotAFolder { .. })
        ));
    }

    #[test]
    fn below_stops_at_the_folder_and_removal_takes_the_whole_of_it() {
        let mut tree = Tree::default();
        for path in ["/a/b", "/a/c/d", "/a-b/x", "/a.b"] {
            tree.insert(path, file()).unwrap();
        }
        let below: Vec<_> = tree.below("/a").map(|(path, _)| path).collect();
        assert_eq!(below, ["/a/b", "/a/c", "/a/c/d"]);
        tree.remove("/a");
        assert_eq!(tree.get("/a"), None);
        assert_eq!(tree.get("/a-b/x"), Some(&file()));
    }
}
