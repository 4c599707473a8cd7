// SPDX-License-Identifier: GPL-2.0
//! What cargo has built.

use std::io::BufRead;

use anyhow::Result;
use serde_json::Value;

/// Where the program of this kind and name is, if cargo's messages say so.
pub fn find(messages: impl BufRead, kind: &str, name: &str) -> Result<Option<String>> {
    let mut found = None;
    for line in messages.lines() {
        // Not every line is a message: build scripts print, too.
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        let target = &message["target"];
        let kinds = target["kind"].as_array();
        if target["name"] == name && kinds.is_some_and(|kinds| kinds.iter().any(|it| it == kind)) {
            found = message["executable"].as_str().map(str::to_owned).or(found);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_this_kind_and_name() {
        let messages = r#"
not a message
{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"device"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"device"},"executable":"/t/device-1"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"device_2"},"executable":"/t/no"}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"device"},"executable":"/t/bin"}
{"reason":"build-finished","success":true}
"#;
        let found = |kind, name| find(messages.as_bytes(), kind, name).unwrap();
        assert_eq!(found("test", "device").as_deref(), Some("/t/device-1"));
        assert_eq!(found("bin", "device").as_deref(), Some("/t/bin"));
        assert_eq!(found("example", "device"), None);
        assert_eq!(found("lib", "device"), None);
    }
}
