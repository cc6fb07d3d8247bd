//! What must not be in a root tree, whatever the declaration says.

use std::io::Read;

use crate::store::{Store, StoreError};
use crate::tree::{Node, Tree};

/// Program names of shells, interpreters, package managers and remote logins. A version (`python3.13`)
/// or a dash and more (`apt-get`) may follow.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "a shell",
        &[
            "sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "mksh", "fish", "csh", "tcsh",
            "rbash", "sulogin",
        ],
    ),
    (
        "an interpreter",
        &[
            "perl",
            "python",
            "lua",
            "luajit",
            "ruby",
            "awk",
            "mawk",
            "gawk",
            "nawk",
            "original-awk",
            "tclsh",
            "node",
            "php",
            "guile",
            "gdb",
        ],
    ),
    (
        "a package manager",
        &["apt", "aptitude", "dpkg", "rpm", "dnf", "snap", "pip"],
    ),
    (
        "a remote login",
        &[
            "ssh",
            "sshd",
            "scp",
            "sftp",
            "dropbear",
            "telnet",
            "telnetd",
            "in.telnetd",
            "rlogin",
            "rsh",
        ],
    ),
];
/// The first bytes of a script.
const SCRIPT: &[u8] = b"#!";
const SET_ID: u32 = 0o6000;
/// The write bits of group and others.
const OTHERS_WRITE: u32 = 0o022;
/// Folders that are mount points by the time anyone can write to them.
const STICKY: u32 = 0o1000;

/// Something that must not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub what: String,
}

/// An image that holds what it must not.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the tree holds what it must not: {}", list(.0))]
    Found(Vec<Finding>),
    #[error("cannot read the tree")]
    Store(#[from] StoreError),
}

/// Looks through a tree for shells, interpreters, package managers, remote
/// logins, scripts, set-uid files, files that others may write, links that lead out of the tree,
/// and users with a password.
///
/// # Errors
/// When there are any, naming all, or the tree cannot be read.
pub fn audit(store: &Store, tree: &Tree) -> Result<(), AuditError> {
    let mut findings = Vec::new();
    let mut find = |path: &str, what: String| {
        findings.push(Finding {
            path: path.to_owned(),
            what,
        });
    };
    for (path, node) in tree.iter() {
        if let Some(what) = forbidden_name(path) {
            find(path, what.to_owned());
        }
        match node {
            Node::Directory { mode } => {
                if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
                    find(path, "a folder that others may write".to_owned());
                }
            }
            Node::Link { target } => {
                if target.split('/').any(|name| name == "..")
                    && tree.follow(path).is_err_and(escapes)
                {
                    find(path, format!("a link out of the tree, to {target}"));
                }
            }
            Node::File { mode, object, .. } => {
                if mode & SET_ID != 0 {
                    find(path, "a set-uid file".to_owned());
                }
                if mode & OTHERS_WRITE != 0 {
                    find(path, "a file that others may write".to_owned());
                }
                let mut head = [0; SCRIPT.len()];
                let is_script =
                    store.reader(path, object)?.read_exact(&mut head).is_ok() && head == SCRIPT;
                if is_script {
                    find(path, "a script".to_owned());
                }
            }
        }
    }
    for line in String::from_utf8_lossy(&store.read(tree, "/etc/shadow")?).lines() {
        let mut fields = line.split(':');
        let (user, password) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        // A hash starts with neither of these; an empty field lets anyone in.
        if !password.starts_with(['!', '*']) {
            find("/etc/shadow", format!("the user {user}, who can log in"));
        }
    }
    if findings.is_empty() {
        Ok(())
    } else {
        Err(AuditError::Found(findings))
    }
}

fn escapes(error: crate::tree::TreeError) -> bool {
    matches!(error, crate::tree::TreeError::Escapes { .. })
}

/// Says what a path is by its name, if it must not be in an image. Names are judged where programs lie.
fn forbidden_name(path: &str) -> Option<&'static str> {
    const PROGRAMS: [&str; 7] = [
        "/bin/",
        "/sbin/",
        "/libexec/",
        "/lib/klibc/",
        "/lib/openssh/",
        "/games/",
        "/local/",
    ];
    let name = path.rsplit('/').next()?;
    if !PROGRAMS.iter().any(|folder| path.contains(folder)) {
        return None;
    }
    // `python3.13` is python, and what stands behind a dash goes with the program before it:
    // `dpkg-query`, `ssh-agent`, `perl5.40-x86_64-linux-gnu`.
    let first = name.split('-').next().unwrap_or(name);
    let bare = first.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    FORBIDDEN
        .iter()
        .find(|(_, names)| names.contains(&name) || names.contains(&bare))
        .map(|(what, _)| *what)
}

fn list(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("{} ({})", finding.path, finding.what))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_with(store: &Store, path: &str, node: Node) -> Tree {
        let mut tree = Tree::default();
        let shadow = store
            .put_file("/etc/shadow", 0o640, b"root:!*:::::::\n")
            .unwrap();
        tree.insert("/etc/shadow", shadow).unwrap();
        tree.insert(path, node).unwrap();
        tree
    }

    #[test]
    fn each_forbidden_thing_is_found_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let file = |content: &[u8]| store.put_file("/x", 0o755, content).unwrap();
        let set_uid = |node: Node| match node.clone() {
            Node::File { object, size, .. } => Node::File {
                mode: 0o4755,
                object,
                size,
            },
            Node::Directory { .. } | Node::Link { .. } => node,
        };
        for (path, node, expected) in [
            ("/usr/bin/dash", file(b"elf"), "a shell"),
            (
                "/usr/bin/sh",
                Node::Link {
                    target: "dash".into(),
                },
                "a shell",
            ),
            ("/usr/bin/python3.13", file(b"elf"), "an interpreter"),
            ("/usr/bin/perl5.40.1", file(b"elf"), "an interpreter"),
            (
                "/usr/bin/perl5.40-x86_64-linux-gnu",
                file(b"elf"),
                "an interpreter",
            ),
            ("/usr/bin/dpkg-query", file(b"elf"), "a package manager"),
            ("/usr/bin/ssh-agent", file(b"elf"), "a remote login"),
            ("/usr/lib/klibc/bin/sh", file(b"elf"), "a shell"),
            ("/usr/bin/dpkg", file(b"elf"), "a package manager"),
            ("/usr/sbin/sshd", file(b"elf"), "a remote login"),
            ("/usr/bin/tool", file(b"#!/bin/x"), "a script"),
            ("/usr/bin/su", set_uid(file(b"elf")), "a set-uid file"),
            (
                "/usr/x",
                Node::Link {
                    target: "../../../etc".into(),
                },
                "a link out of the tree, to ../../../etc",
            ),
            (
                "/etc/open",
                Node::Directory { mode: 0o777 },
                "a folder that others may write",
            ),
        ] {
            match audit(&store, &tree_with(&store, path, node)) {
                Err(AuditError::Found(found)) => assert_eq!(
                    found,
                    [Finding {
                        path: path.into(),
                        what: expected.into()
                    }]
                ),
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_only_sounds_like_a_shell_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for path in [
            "/usr/bin/containerd-shim-runc-v2",
            "/usr/share/bash-completion/bash",
            "/usr/lib/udev/node",
        ] {
            let node = store.put_file(path, 0o755, b"elf").unwrap();
            audit(&store, &tree_with(&store, path, node)).unwrap();
        }
    }

    #[test]
    fn a_user_without_a_lock_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for line in ["root::0:::::", "root:$y$hash:0:::::"] {
            let mut tree = Tree::default();
            let shadow = store
                .put_file("/etc/shadow", 0o640, line.as_bytes())
                .unwrap();
            tree.insert("/etc/shadow", shadow).unwrap();
            assert!(
                matches!(audit(&store, &tree), Err(AuditError::Found(_))),
                "{line}"
            );
        }
    }
}
