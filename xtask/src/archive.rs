//! Which of Debian's suites a release is made from.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

use crate::checkout::Checkout;

/// The suites that a release is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    /// Those of the product's declaration.
    Whole,
    /// The same without the updates since Debian's release: what a node runs that is
    /// to get them.
    WithoutUpdates,
}

impl Archive {
    /// Returns a declaration with these suites; it is made if it has to be.
    pub(crate) fn declaration(self, checkout: &Checkout) -> Result<PathBuf> {
        let product = checkout.declaration();
        match self {
            Self::Whole => Ok(product),
            Self::WithoutUpdates => {
                let text = fs::read_to_string(&product)
                    .with_context(|| format!("cannot read {}", product.display()))?;
                let text = without_updates(&text, checkout)
                    .with_context(|| format!("cannot change {}", product.display()))?;
                let path = checkout.build().join("without-updates.toml");
                fs::create_dir_all(checkout.build())
                    .and_then(|()| fs::write(&path, text))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(path)
            }
        }
    }
}

fn without_updates(text: &str, checkout: &Checkout) -> Result<String> {
    let mut declaration: Table = text.parse()?;
    let sources = array(&mut declaration, "source")?;
    let suites = |source: &Value| -> Vec<String> {
        let suites = source.get("suites").and_then(Value::as_array);
        let names = suites.into_iter().flatten().filter_map(Value::as_str);
        names.map(ToOwned::to_owned).collect()
    };
    let before = sources.iter().flat_map(suites).count();
    for source in sources.iter_mut() {
        if let Some(suites) = source.get_mut("suites").and_then(Value::as_array_mut) {
            suites.retain(|suite| !suite.as_str().is_some_and(is_update));
        }
    }
    sources.retain(|source| !suites(source).is_empty());
    let after = sources.iter().flat_map(suites).count();
    ensure!(after < before, "no suite in it brings updates");
    // They are relative to where the declaration lies.
    let home = checkout.declaration();
    let home = home.parent().context("a file lies in a folder")?;
    for tree in array(&mut declaration, "tree")? {
        if let Some(from) = tree.get_mut("from") {
            let path = home.join(from.as_str().context("a tree comes from a folder")?);
            *from = Value::String(path.display().to_string());
        }
    }
    Ok(declaration.to_string())
}

fn array<'a>(table: &'a mut Table, key: &str) -> Result<&'a mut Vec<Value>> {
    let value = table.get_mut(key).and_then(Value::as_array_mut);
    value.with_context(|| format!("there is no list `{key}`"))
}

fn is_update(suite: &str) -> bool {
    suite.ends_with("-updates") || suite.ends_with("-security")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suites_with_updates_are_left_out_of_the_products_own_declaration() {
        let checkout = Checkout::find().expect("this checkout");
        let product = fs::read_to_string(checkout.declaration()).expect("the declaration");
        let text = without_updates(&product, &checkout).expect("it has updates");
        let mut left: Table = text.parse().expect("TOML");
        let suites: Vec<String> = array(&mut left, "source")
            .expect("sources")
            .iter()
            .flat_map(|source| source["suites"].as_array().expect("a list"))
            .map(|suite| suite.as_str().expect("a name").to_owned())
            .collect();
        assert_eq!(suites, ["trixie", "testing"]);
        let from = array(&mut left, "tree").expect("trees")[0]["from"].clone();
        assert!(PathBuf::from(from.as_str().expect("a path")).is_dir());
        // What is left is the product's, but for sources and trees.
        let mut whole: Table = product.parse().expect("TOML");
        for table in [&mut left, &mut whole] {
            table.remove("source");
            table.remove("tree");
        }
        assert_eq!(left, whole);
        assert!(without_updates(&text, &checkout).is_err());
    }
}
