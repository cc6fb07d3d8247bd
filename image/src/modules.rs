//! Which kernel modules must be loaded for another, and in which order.

use std::collections::BTreeMap;

/// The index of a kernel's modules, as `depmod` writes it.
#[derive(Debug)]
pub struct Modules {
    /// Path below the modules' folder, and the paths of what it depends on.
    paths: BTreeMap<String, (String, Vec<String>)>,
    builtin: Vec<String>,
}

/// A module that the kernel neither has built in nor brings as a file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the kernel has no module {name}")]
pub struct NoModule {
    pub name: String,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin`.
    pub fn parse(dep: &str, builtin: &str) -> Self {
        let paths = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                (name_of(path), (path.to_owned(), needs))
            })
            .collect();
        Self {
            paths,
            builtin: builtin.lines().map(name_of).collect(),
        }
    }

    /// Returns the paths of the named modules and all that they need, each after what it needs.
    /// Modules that the kernel has built in have no path.
    ///
    /// # Errors
    /// When the kernel does not have a module at all.
    pub fn in_load_order<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<String>, NoModule> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    /// Says whether the kernel has the module, as a file or built in.
    pub fn has(&self, name: &str) -> bool {
        let name = name_of(name);
        self.paths.contains_key(&name) || self.builtin.contains(&name)
    }

    fn add(&self, name: &str, order: &mut Vec<String>) -> Result<(), NoModule> {
        let key = name_of(name);
        let Some((path, needs)) = self.paths.get(&key) else {
            if self.builtin.contains(&key) {
                return Ok(());
            }
            return Err(NoModule {
                name: name.to_owned(),
            });
        };
        if order.contains(path) {
            return Ok(());
        }
        // modules.dep lists everything needed, the outermost first.
        for need in needs.iter().rev() {
            self.add(need, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// Returns the names of the modules that a module's file says it needs; nothing if it is no
/// module's. `depmod` finds the same by symbols, but is silent about what is not there at all.
pub fn needs(module: &[u8]) -> Option<Vec<String>> {
    // Of `.modinfo`, a section of texts of the form `key=value`, each ended by a zero.
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY)?;
    let value = module.get(start + KEY.len()..)?;
    let end = value.iter().position(|byte| *byte == 0)?;
    let value = std::str::from_utf8(value.get(..end)?).ok()?;
    let names = value.split(',').filter(|name| !name.is_empty());
    Some(names.map(name_of).collect())
}

/// Returns a module's name: no folder, no suffix, and of the two spellings the kernel's own.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/md/dm-verity.ko.xz: kernel/lib/reed_solomon.ko.xz kernel/md/dm-bufio.ko.xz kernel/md/dm-mod.ko.xz\n\
        kernel/md/dm-bufio.ko.xz: kernel/md/dm-mod.ko.xz\nkernel/md/dm-mod.ko.xz:\nkernel/lib/reed_solomon.ko.xz:\n";

    #[test]
    fn a_module_comes_after_everything_it_needs_and_once() {
        let modules = Modules::parse(DEP, "kernel/nvme/nvme-core.ko\n");
        let order = modules
            .in_load_order(["dm_bufio", "dm-verity", "nvme_core"])
            .unwrap();
        assert_eq!(
            order,
            [
                "kernel/md/dm-mod.ko.xz",
                "kernel/md/dm-bufio.ko.xz",
                "kernel/lib/reed_solomon.ko.xz",
                "kernel/md/dm-verity.ko.xz"
            ]
        );
    }

    #[test]
    fn what_a_module_needs_stands_in_its_file() {
        let file = b"\x7fELF..depends=no\0license=GPL\0depends=dm-bufio,libcrc32c\0name=x\0";
        assert_eq!(needs(file).unwrap(), ["dm_bufio", "libcrc32c"]);
        assert_eq!(needs(b"license=GPL\0depends=\0").unwrap(), [""; 0]);
        assert_eq!(needs(b"license=GPL\0depends=cut"), None);
        assert_eq!(needs(b"\x7fELF a program"), None);
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let modules = Modules::parse(DEP, "");
        let error = modules.in_load_order(["virtio_blk"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module virtio_blk");
        assert!(!modules.has("virtio_blk"));
    }
}
