// SPDX-License-Identifier: GPL-2.0
//! The report in a real browser: `scripts/bench-test` runs this with the report in `REPORT`, the browser
//! in `BROWSER`, and in `SCREENSHOTS` a directory for pictures of what was seen.

mod devtools;

use std::{env, error::Error, fs, path::PathBuf, process::ExitCode};

use base64::{Engine, prelude::BASE64_STANDARD};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use devtools::Browser;

/// A screen.
#[derive(Clone, Copy)]
struct Screen {
    name: &'static str,
    width: u32,
    dark: bool,
}

const SCREENS: [Screen; 4] = [
    Screen {
        name: "desktop-light",
        width: 1200,
        dark: false,
    },
    Screen {
        name: "desktop-dark",
        width: 1200,
        dark: true,
    },
    Screen {
        name: "phone-light",
        width: 360,
        dark: false,
    },
    Screen {
        name: "phone-dark",
        width: 360,
        dark: true,
    },
];

/// Looks at what is drawn, and how.
const LOOK: &str = r#"(() => {
	const rgb = colour => colour.match(/[\d.]+/g).map(Number);
	const luminance = colour => {
		const [r, g, b] = rgb(colour).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const contrast = (a, b) => {
		const [x, y] = [luminance(a), luminance(b)].sort((x, y) => y - x);
		return (x + 0.05) / (y + 0.05);
	};
	document.querySelectorAll('details').forEach(details => details.open = true);
	const root = document.documentElement;
	const card = getComputedStyle(document.querySelector('figure')).backgroundColor;
	const visible = [...document.querySelectorAll('svg')].filter(svg => {
		const box = svg.getBoundingClientRect();
		return box.width > 200 && box.height > 60 && svg.childElementCount > 5;
	});
	const texts = [...document.querySelectorAll('svg text')];
	const drawn = [...document.querySelectorAll('svg polyline, svg circle, svg rect')];
	return {
		svgs: document.querySelectorAll('svg').length,
		visible: visible.length,
		lines: document.querySelectorAll('svg polyline').length,
		texts: texts.length,
		smallest: Math.min(...texts.map(text => text.getBoundingClientRect().height)),
		textContrast: Math.min(...texts.map(text => contrast(getComputedStyle(text).fill, card))),
		unstyled: drawn.filter(e => /^#0[12]0[12]/.test(e.getAttribute('stroke') || '') && getComputedStyle(e).stroke === rgbOf(e.getAttribute('stroke'))).length,
		bodyContrast: contrast(getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor),
		background: luminance(getComputedStyle(document.body).backgroundColor),
		overflow: root.scrollWidth - root.clientWidth,
		width: root.clientWidth,
		overlapping: [...document.querySelectorAll('svg')].filter(svg => {
			const box = svg.getBoundingClientRect();
			return [...svg.querySelectorAll('text')].some(text => {
				const t = text.getBoundingClientRect();
				return t.left < box.left - 1 || t.right > box.right + 1;
			});
		}).map(svg => svg.getAttribute('aria-label').slice(0, 60)),
	};
	function rgbOf(hex) {
		return `rgb(${[1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)).join(', ')})`;
	}
})()"#;

fn main() -> ExitCode {
    let trial = |screen: Screen| {
        Trial::test(screen.name, move || {
            shows(screen).map_err(|e| Failed::from(e.to_string()))
        })
    };
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, SCREENS.map(trial).into()).exit_code()
}

fn path(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    Ok(env::var_os(name)
        .ok_or(format!("{name} is not set; see scripts/bench-test --help"))?
        .into())
}

fn shows(screen: Screen) -> Result<(), Box<dyn Error>> {
    let report = fs::canonicalize(path("REPORT")?)?;
    let url = format!("file://{}", report.display());
    let mut browser = Browser::start(&path("BROWSER")?)?;
    browser.call("Page.enable", json!({}))?;
    browser.call("Runtime.enable", json!({}))?;
    browser.call("Log.enable", json!({}))?;
    browser.call("Network.enable", json!({}))?;
    let phone = screen.width < 600;
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        json!({"width": screen.width, "height": 800, "deviceScaleFactor": 1, "mobile": phone}),
    )?;
    let scheme = if screen.dark { "dark" } else { "light" };
    browser.call(
        "Emulation.setEmulatedMedia",
        json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}),
    )?;
    browser.call("Page.navigate", json!({"url": url}))?;
    browser.wait_for("Page.loadEventFired")?;
    // As it is first seen: with its details closed.
    let narrow = evaluate(
        &mut browser,
        "document.documentElement.scrollWidth - document.documentElement.clientWidth",
    )?;
    assert_eq!(narrow, json!(0), "the page scrolls sideways");
    let size = &browser.call("Page.getLayoutMetrics", json!({}))?["cssContentSize"];
    let clip =
        json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
    let picture = json!({"captureBeyondViewport": true, "clip": clip});
    let picture = browser.call("Page.captureScreenshot", picture)?;
    let picture = picture["data"].as_str().ok_or("no picture")?;
    fs::write(
        path("SCREENSHOTS")?.join(screen.name).with_extension("png"),
        BASE64_STANDARD.decode(picture)?,
    )?;
    let seen = evaluate(&mut browser, LOOK)?;

    for event in &browser.events {
        let (method, params) = (event["method"].as_str().unwrap_or(""), &event["params"]);
        match method {
            "Network.requestWillBeSent" => {
                let asked = params["request"]["url"].as_str().unwrap_or("");
                assert!(
                    asked == url || asked.starts_with("data:"),
                    "the page asks for {asked}"
                );
            }
            "Log.entryAdded" => {
                let level = params["entry"]["level"].as_str().unwrap_or("");
                assert!(!matches!(level, "error" | "warning"), "{}", params["entry"]);
            }
            "Runtime.exceptionThrown" => panic!("{params}"),
            "Runtime.consoleAPICalled" => panic!("{params}"),
            _ => {}
        }
    }
    let asked = browser
        .events
        .iter()
        .filter(|event| event["method"] == "Network.requestWillBeSent");
    assert!(
        asked.count() > 0,
        "no request was seen, not even the one for the page"
    );
    let number = |name: &str| seen[name].as_f64().unwrap_or(f64::NAN);
    assert!(number("svgs") >= 12.0, "too few charts: {seen}");
    assert_eq!(
        number("svgs"),
        number("visible"),
        "a chart is not to be seen: {seen}"
    );
    assert!(
        number("lines") >= 50.0 && number("texts") >= 100.0,
        "empty charts: {seen}"
    );
    assert_eq!(
        number("overflow"),
        0.0,
        "with all details open, the page scrolls sideways: {seen}"
    );
    assert!(number("width") <= f64::from(screen.width), "{seen}");
    assert_eq!(
        seen["overlapping"],
        json!([]),
        "text reaches out of its chart"
    );
    assert!(number("smallest") >= 9.0, "too small to read: {seen}");
    assert!(
        number("textContrast") >= 4.5 && number("bodyContrast") >= 7.0,
        "too little contrast: {seen}"
    );
    assert_eq!(
        number("unstyled"),
        0.0,
        "a role of a chart has no colour: {seen}"
    );
    assert_eq!(
        number("background") < 0.2,
        screen.dark,
        "the wrong scheme: {seen}"
    );
    Ok(())
}

fn evaluate(browser: &mut Browser, script: &str) -> Result<Value, Box<dyn Error>> {
    let answer = browser.call(
        "Runtime.evaluate",
        json!({"expression": script, "returnByValue": true}),
    )?;
    match &answer["exceptionDetails"] {
        Value::Null => Ok(answer["result"]["value"].clone()),
        exception => Err(exception.to_string().into()),
    }
}
