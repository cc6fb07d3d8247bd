use std::fmt;

use release::Blob;
use url::Url;

/// The address of a repository: a folder, over HTTP or on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository(Url);

/// Why a text is no address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRepository {
    #[error("is not a URL: {0}")]
    NotUrl(url::ParseError),
    #[error("is a {0} URL; http, https and file are known")]
    UnknownScheme(String),
    #[error("must name a folder on this machine, as in file:///srv/repository or /srv/repository")]
    NotLocal,
    #[error("must not hold a user name or password: they would show in every message")]
    HoldsPassword,
    #[error("must not have a part after '?' or '#': names of files are put behind it")]
    HoldsQuery,
}

impl Repository {
    /// Returns the repository at `text`: a URL, or the path of a folder.
    pub fn parse(text: &str) -> Result<Self, BadRepository> {
        let mut url = match text.starts_with('/') {
            true => Url::from_directory_path(text).map_err(|()| BadRepository::NotLocal)?,
            false => Url::parse(text).map_err(BadRepository::NotUrl)?,
        };
        match url.scheme() {
            "http" | "https" => {}
            "file" if url.to_file_path().is_ok() => {}
            "file" => return Err(BadRepository::NotLocal),
            other => return Err(BadRepository::UnknownScheme(other.to_owned())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadRepository::HoldsPassword);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BadRepository::HoldsQuery);
        }
        // Without the slash, joining a name would replace the last folder.
        if !url.path().ends_with('/') {
            let folder = format!("{}/", url.path());
            url.set_path(&folder);
        }
        Ok(Self(url))
    }

    /// Returns the folder of the TUF metadata.
    pub fn metadata(&self) -> Url {
        self.folder("metadata/")
    }

    /// Returns the folder of the TUF targets.
    pub fn targets(&self) -> Url {
        self.folder("targets/")
    }

    /// Returns where `blob` lies.
    pub fn blob(&self, blob: &Blob) -> Url {
        self.folder(&blob.path().to_string())
    }

    /// Returns whether the repository is reached over HTTP.
    pub fn is_remote(&self) -> bool {
        self.0.scheme() != "file"
    }

    fn folder(&self, name: &str) -> Url {
        self.0
            .join(name)
            .expect("a name without a scheme joins any base that parsed")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_go_behind_the_whole_path_of_the_repository() {
        for base in ["http://host:8080/a/b", "http://host:8080/a/b/"] {
            let repository = Repository::parse(base).unwrap();
            assert_eq!(
                repository.metadata().as_str(),
                "http://host:8080/a/b/metadata/"
            );
            assert_eq!(
                repository.targets().as_str(),
                "http://host:8080/a/b/targets/"
            );
        }
        assert!(
            !Repository::parse("file:///srv/repository")
                .unwrap()
                .is_remote()
        );
        assert_eq!(
            Repository::parse("file://host/srv"),
            Err(BadRepository::NotLocal)
        );
        assert_eq!(
            Repository::parse("http://h/?a"),
            Err(BadRepository::HoldsQuery)
        );
    }
}
