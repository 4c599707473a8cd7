// SPDX-License-Identifier: GPL-2.0
//! A headless Chromium and its DevTools protocol, over a pair of pipes: JSON objects, each with a NUL
//! at its end.

use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Value,
    calls: u64,
    /// What it said unasked.
    pub events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it with an empty page. What it would ask the network for by itself is switched off.
    pub fn start(program: &Path) -> Result<Self, Box<dyn Error>> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#,
            ])
            .arg(program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--disable-gpu",
                "--disable-quic",
            ])
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--disable-sync",
                "--hide-scrollbars",
                "--disable-dev-shm-usage",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()));
        // Root has no sandbox.
        if rustix::process::geteuid().is_root() {
            command.arg("--no-sandbox");
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = process.stdin.take().expect("piped");
        let from = BufReader::new(process.stdout.take().expect("piped"));
        let mut browser = Self {
            process,
            to,
            from,
            session: Value::Null,
            calls: 0,
            events: vec![],
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)?["sessionId"].clone();
        Ok(browser)
    }

    /// Calls a method and returns its result.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Box<dyn Error>> {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_null() {
            call["sessionId"] = self.session.clone();
        }
        let mut bytes = serde_json::to_vec(&call)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        loop {
            let message = self.receive()?;
            if message["id"] == self.calls {
                return match &message["error"] {
                    Value::Null => Ok(message["result"].clone()),
                    error => Err(format!("{method}: {error}").into()),
                };
            }
        }
    }

    /// Waits for an event.
    pub fn wait_for(&mut self, method: &str) -> Result<(), Box<dyn Error>> {
        while !self.events.iter().any(|event| event["method"] == method) {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Value, Box<dyn Error>> {
        let mut bytes = vec![];
        self.from.read_until(0, &mut bytes)?;
        if bytes.pop() != Some(0) {
            return Err("the browser ended".into());
        }
        let message: Value = serde_json::from_slice(&bytes)?;
        if message["id"].is_null() {
            self.events.push(message.clone());
        }
        Ok(message)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
