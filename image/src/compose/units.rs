//! Enabling and masking units by links, as `systemctl` would.

use crate::store::Store;
use crate::tree::{Node, Tree};

use super::ComposeError;

/// Where units are looked for, the strongest first.
const FOLDERS: [&str; 2] = ["/etc/systemd/system", "/usr/lib/systemd/system"];
const LINKS: &str = "/etc/systemd/system";

/// Makes the links that a unit's `[Install]` section asks for, and those of the
/// units that come with it.
pub(super) fn enable(store: &Store, tree: &mut Tree, unit: &str) -> Result<(), ComposeError> {
    let mut todo = vec![unit.to_owned()];
    let mut done: Vec<String> = Vec::new();
    while let Some(unit) = todo.pop() {
        if done.contains(&unit) {
            continue;
        }
        let (path, text) = read(store, tree, &unit)?;
        let install = Install::parse(&text);
        if install.is_empty() {
            return Err(ComposeError::NoInstall { unit });
        }
        let target = || Node::Link {
            target: path.clone(),
        };
        for (folder, needers) in [
            ("wants", &install.wanted_by),
            ("requires", &install.required_by),
        ] {
            for needer in needers {
                tree.insert(&format!("{LINKS}/{needer}.{folder}/{unit}"), target())?;
            }
        }
        for alias in &install.aliases {
            tree.insert(&format!("{LINKS}/{alias}"), target())?;
        }
        todo.extend(install.also);
        done.push(unit);
    }
    Ok(())
}

/// Makes a unit one that cannot start.
pub(super) fn mask(tree: &mut Tree, unit: &str) -> Result<(), ComposeError> {
    let target = "/dev/null".to_owned();
    Ok(tree.insert(&format!("{LINKS}/{unit}"), Node::Link { target })?)
}

/// Returns the units that a preset file enables.
pub(super) fn preset(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("enable "))
        .map(|unit| unit.trim().to_owned())
        .collect()
}

/// Finds a unit: its path in the image and its text. An instance is described by its template.
fn read(store: &Store, tree: &Tree, unit: &str) -> Result<(String, String), ComposeError> {
    let template = unit.split_once('@').and_then(|(name, instance)| {
        let (_, kind) = instance.rsplit_once('.')?;
        Some(format!("{name}@.{kind}"))
    });
    for name in std::iter::once(unit.to_owned()).chain(template) {
        for folder in FOLDERS {
            let path = format!("{folder}/{name}");
            if tree.get(&path).is_some() {
                let text = store.read(tree, &path)?;
                return Ok((path, String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }
    Err(ComposeError::NoUnit {
        unit: unit.to_owned(),
    })
}

/// The `[Install]` section of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    aliases: Vec<String>,
    also: Vec<String>,
}

impl Install {
    fn parse(text: &str) -> Self {
        let mut install = Self::default();
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                inside = line == "[Install]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| inside) else {
                continue;
            };
            let values = value.split_whitespace().map(str::to_owned);
            match key.trim() {
                "WantedBy" => install.wanted_by.extend(values),
                "RequiredBy" => install.required_by.extend(values),
                "Alias" => install.aliases.extend(values),
                "Also" => install.also.extend(values),
                _ => {}
            }
        }
        install
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_install_section_speaks() {
        let text = "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=a.target b.target\nAlias=c.service\nAlso=d.socket\n# RequiredBy=e\n";
        let install = Install::parse(text);
        assert_eq!(install.wanted_by, ["a.target", "b.target"]);
        assert_eq!(install.aliases, ["c.service"]);
        assert_eq!(install.also, ["d.socket"]);
        assert!(install.required_by.is_empty());
    }

    #[test]
    fn a_preset_enables_only_what_it_says() {
        assert_eq!(
            preset("# x\nenable a.service\ndisable b.service\n enable c.timer \n"),
            ["a.service", "c.timer"]
        );
    }

    #[test]
    fn enabling_a_unit_brings_its_socket_and_its_alias() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut tree = Tree::default();
        for (name, text) in [
            (
                "a.service",
                "[Install]\nWantedBy=multi-user.target\nAlias=b.service\nAlso=a.socket\n",
            ),
            (
                "a.socket",
                "[Install]\nRequiredBy=sockets.target\nAlso=a.service\n",
            ),
        ] {
            let path = format!("/usr/lib/systemd/system/{name}");
            let node = store.put_file(&path, 0o644, text.as_bytes()).unwrap();
            tree.insert(&path, node).unwrap();
        }
        enable(&store, &mut tree, "a.service").unwrap();
        for link in [
            "multi-user.target.wants/a.service",
            "b.service",
            "sockets.target.requires/a.socket",
        ] {
            assert!(
                tree.get(&format!("/etc/systemd/system/{link}")).is_some(),
                "{link}"
            );
        }
        let error = enable(&store, &mut tree, "none.service").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unit none.service is to be enabled and is not in the image"
        );
    }
}
