//! Asking apt which packages a request comes down to.
//!
//! apt runs with a configuration and an (empty) system state of its own, so that neither the
//! host's packages nor its mirrors and pins have a say, and no privilege is needed. Only the way
//! out is the host's: its proxies, from apt's configuration or (as apt does) the environment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::lock::{Lock, Package};
use super::request::Request;
use crate::tool::{Tool, ToolError};

/// Why it is not known which packages a tree is made of.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("cannot prepare apt's folder {path}")]
    Prepare { path: PathBuf, source: io::Error },
    #[error("cannot ask apt for the host's proxies")]
    Proxies(#[source] ToolError),
    #[error("cannot read the mirrors' package lists")]
    Update(#[source] ToolError),
    #[error("the mirrors do not offer these packages together: {packages}")]
    Unsatisfiable { packages: String, source: ToolError },
    #[error("cannot look up the packages found")]
    Describe(#[source] ToolError),
    #[error("apt offers {file} but does not describe it")]
    Undescribed { file: String },
    #[error("apt describes {package} without its {field}")]
    Incomplete {
        package: String,
        field: &'static str,
    },
}

/// Finds the packages of a request, by reading the mirrors' lists anew.
/// `folder` is where apt may keep the lists between calls, whatever the requests.
///
/// # Errors
/// When a list cannot be read or is not signed by the declared key, or the
/// packages cannot be had together.
pub fn resolve(request: &Request<'_>, folder: &Path) -> Result<Lock, ResolveError> {
    let dump = Tool::host("apt-config")
        .arg("dump")
        .run()
        .map_err(ResolveError::Proxies)?;
    let proxies = proxies_of(&String::from_utf8_lossy(&dump));
    let config = prepare(request, &proxies, folder)?;
    apt("apt-get", &config)
        // Without it, a mirror that cannot be reached is only a warning.
        .args(["-o", "APT::Update::Error-Mode=any", "update"])
        .run()
        .map_err(ResolveError::Update)?;
    let uris = apt("apt-get", &config)
        .args(["install", "--yes", "--print-uris", "-qq"])
        .args(request.packages)
        .run()
        .map_err(|source| ResolveError::Unsatisfiable {
            packages: request.packages.join(" "),
            source,
        })?;
    let uris = parse_uris(&String::from_utf8_lossy(&uris));
    let described = apt("apt-cache", &config)
        .arg("show")
        .args(uris.iter().map(|(file, _)| selector(file)))
        .run()
        .map_err(ResolveError::Describe)?;
    let stanzas = parse_stanzas(&String::from_utf8_lossy(&described))?;
    let mut packages = uris
        .into_iter()
        .map(|(file, uri)| {
            let package = stanzas
                .get(&file)
                .ok_or(ResolveError::Undescribed { file })?;
            Ok(Package {
                uri,
                ..package.clone()
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    packages.sort();
    Ok(Lock { packages })
}

fn apt(program: &str, config: &Path) -> Tool {
    Tool::host(program).env("APT_CONFIG", config)
}

/// Lays out apt's private configuration and returns its path.
fn prepare(request: &Request<'_>, proxies: &str, folder: &Path) -> Result<PathBuf, ResolveError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ResolveError::Prepare { path, source }
    };
    for part in ["lists/partial", "archives/partial", "etc"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(failed(&path))?;
    }
    let folder = fs::canonicalize(folder).map_err(failed(folder))?;
    let config = folder.join("apt.conf");
    let root = folder.display();
    let architecture = request.architecture;
    let text = format!(
        r#"Dir "{root}";
Dir::State "{root}";
Dir::State::status "{root}/status";
Dir::State::extended_states "{root}/extended_states";
Dir::Cache "{root}";
Dir::Etc "{root}/etc";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "{root}/sources.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "{root}/preferences";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Log "{root}";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "3";
{proxies}"#
    );
    for (name, text) in [
        ("apt.conf", text),
        ("status", String::new()),
        ("sources.sources", request.sources_text()),
        ("preferences", request.preferences_text()),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(config)
}

/// Returns the lines about proxies of what `apt-config dump` prints: the proxies
/// themselves, those of single servers, and programs that find one.
fn proxies_of(dump: &str) -> String {
    let names = ["Acquire::http::Proxy", "Acquire::https::Proxy"];
    dump.lines()
        .filter(|line| names.iter().any(|name| line.starts_with(name)))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Reads lines of the form `'URI' FILE SIZE HASH`.
fn parse_uris(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let (file, _) = rest.split_once(' ')?;
            Some((file.to_owned(), uri.to_owned()))
        })
        .collect()
}

/// Returns how `apt-cache` names the package of a file: `name:architecture=version`.
fn selector(file: &str) -> String {
    let mut parts = file.trim_end_matches(".deb").splitn(3, '_');
    let mut next = || parts.next().unwrap_or_default();
    let (name, version, _) = (next(), next(), next());
    format!("{name}={}", version.replace("%3a", ":"))
}

/// Reads `apt-cache show`, keyed by file name.
fn parse_stanzas(text: &str) -> Result<BTreeMap<String, Package>, ResolveError> {
    text.split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
        .map(|stanza| {
            let field = |name: &'static str| {
                stanza.lines().find_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    (key == name).then(|| value.trim().to_owned())
                })
            };
            let package = field("Package").unwrap_or_default();
            let need = |name: &'static str| {
                field(name).ok_or(ResolveError::Incomplete {
                    package: package.clone(),
                    field: name,
                })
            };
            let package = Package {
                name: need("Package")?,
                version: need("Version")?,
                architecture: need("Architecture")?,
                source: field("Source").unwrap_or_else(|| package.clone()),
                uri: String::new(),
                sha256: need("SHA256")?,
                size: need("Size")?
                    .parse()
                    .map_err(|_| ResolveError::Incomplete {
                        package: package.clone(),
                        field: "Size",
                    })?,
            };
            Ok((package.file_name(), package))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_survive_the_way_from_file_name_to_version() {
        assert_eq!(
            selector("libcap2_1%3a2.75-10+b3_amd64.deb"),
            "libcap2=1:2.75-10+b3"
        );
        let stanzas = parse_stanzas(
            "Package: libcap2\nSource: libcap2 (1:2.75-10)\nVersion: 1:2.75-10+b3\nArchitecture: amd64\nSize: 12\nSHA256: ab\n\n",
        )
        .unwrap();
        let package = &stanzas["libcap2_1%3a2.75-10+b3_amd64.deb"];
        assert_eq!(package.source(), ("libcap2", "1:2.75-10"));
    }

    #[test]
    fn a_stanza_without_a_hash_names_package_and_field() {
        let error =
            parse_stanzas("Package: x\nVersion: 1\nArchitecture: all\nSize: 1\n").unwrap_err();
        assert_eq!(error.to_string(), "apt describes x without its SHA256");
    }

    #[test]
    fn of_the_hosts_configuration_only_the_proxies_are_taken() {
        let dump = "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://a:3128\";\n\
            Acquire::http::Proxy::mirror.example \"DIRECT\";\nAcquire::https::Proxy \"http://b:1\";\n\
            Acquire::Retries \"9\";\nAPT::Default-Release \"sid\";\n";
        assert_eq!(
            proxies_of(dump),
            "Acquire::http::Proxy \"http://a:3128\";\nAcquire::http::Proxy::mirror.example \"DIRECT\";\n\
             Acquire::https::Proxy \"http://b:1\";\n"
        );
    }

    #[test]
    fn only_lines_with_an_address_are_read() {
        let text = "Reading…\n'http://d/p/a_1_all.deb' a_1_all.deb 5 MD5Sum:x\n'http://d/p/b_2_all.deb' b_2_all.deb 5 \n";
        let files: Vec<_> = parse_uris(text).into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["a_1_all.deb", "b_2_all.deb"]);
    }
}
