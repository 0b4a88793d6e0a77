//! How this command speaks of errors.

use std::io::{self, Write};

/// The error in words, without its number.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Says on standard error what is wrong. Where that is full or gone, there is nobody left to tell.
pub fn complain(sentence: &str) {
    let _ = io::stderr().write_all(format!("aio-posix: {sentence}\n").as_bytes());
}

/// Writes a result to standard output; where it goes may be full or gone.
pub fn say(text: &str) -> Result<(), String> {
    let mut output = io::stdout();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| format!("the result cannot be written: {}", plain(&error)))
}
