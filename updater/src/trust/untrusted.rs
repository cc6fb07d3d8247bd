/// Why metadata, or what it describes, is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    #[error("{role} cannot be read: {why}")]
    Malformed { role: String, why: String },
    #[error("{role} is not signed as it must be: {why}")]
    Unsigned { role: String, why: String },
    #[error("{role} is version {found}, where version {expected} belongs")]
    WrongVersion {
        role: String,
        found: u64,
        expected: u64,
    },
    #[error("{role} is version {found}, but version {seen} was seen before")]
    Older { role: String, found: u64, seen: u64 },
    #[error("it has another root of version {version} than before")]
    OtherRoot { version: u64 },
    #[error("{by} does not list {file}")]
    Unlisted { by: String, file: String },
    #[error("{file} is not the file that is described: {what} differs")]
    WrongContent { file: String, what: &'static str },
    /// Its own kind: this may be the fault of nobody but the clock.
    #[error("{role} is past its date; publish it anew (`refresh`)")]
    Expired { role: String },
    #[error("it has more than {most} newer roots")]
    TooManyRoots { most: u64 },
    #[error("{name} is looked for in more than {most} delegated roles")]
    TooManyRoles { name: String, most: usize },
    #[error("{name:?} is no name of a target: {why}")]
    BadName { name: String, why: &'static str },
}
