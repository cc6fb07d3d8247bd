//! Text that is not all our own, made fit to be shown and sent.

/// Returns `text` with a space for each control character.
///
/// Terminals obey control characters. And a bus ends the connection of whoever sends a
/// text with a NUL in it: a daemon that repeats what a stranger's file says, or the log
/// of a kernel that died, would be gone from the bus each time that somebody asks.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}
