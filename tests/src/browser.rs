//! A real Chromium without a screen, driven by its own WebDriver, as a person would use a page.
//!
//! Owns the driver, the browser and its profile, which go with this value, and in the end by the watchdog. It may
//! reach nothing but this host: every other name is unknown to it. The protocol is spoken by hand (ref: W3C WebDriver;
//! the two commands beyond it are ChromeDriver's), since a request of it is one line and a piece of JSON.

use crate::kafka::artifacts::{install, on_path, say};
use crate::kafka::ports::{self, Port};
use crate::kafka::watchdog::Watchdog;
use crate::poll;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use tempfile::TempDir;

/// How a node is named in answers, by the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// See the file's header.
pub struct Browser {
    driver: Child,
    port: Port,
    session: String,
    watchdog: Watchdog,
    profile: TempDir,
}

/// What a page is drawn for.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub is_phone: bool,
    pub is_dark: bool,
}

/// One request that the page made, or a word of its console.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub requests: Vec<String>,
    /// Errors and warnings, those of the network included.
    pub complaints: Vec<String>,
}

/// The browser and its driver, asked of the package manager where they are missing.
fn programs() {
    static ONCE: Mutex<()> = Mutex::new(());
    let _one = ONCE.lock().expect("setting up panics at most once");
    let lock = File::create(std::env::temp_dir().join("twinlog-tests-chromium")).expect("a lock file");
    // Several test binaries may start at once; all but one wait here and then find the work done.
    lock.lock().expect("the lock can be taken");
    for (program, package) in [("chromium", "chromium"), ("chromedriver", "chromium-driver")] {
        if on_path(program).is_none() {
            install("Chromium without a screen", &[package]);
            assert!(on_path(program).is_some(), "{package} was installed and brought no {program} on PATH");
        }
    }
}

impl Browser {
    /// A new browser with an empty profile.
    pub fn start() -> Self {
        programs();
        let (port, profile) = (ports::take(), tempfile::tempdir().expect("a directory"));
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={}", port.number)).stdin(Stdio::null());
        let driver = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        let watchdog = Watchdog::over(profile.path());
        watchdog.watch(driver.id());
        let mut browser = Self { driver, port, session: String::new(), watchdog, profile };
        poll::poll_until("the driver of the browser is ready", || {
            browser.try_say("GET", "/status", None).is_some_and(|status| status["ready"] == true)
        });
        let directory = browser.profile.path().display().to_string();
        let arguments = [
            "--headless=new".to_owned(),
            // Tests may run as the superuser, whom the browser's own sandbox refuses.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            // The shared memory of a container is too small for its pictures.
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            format!("--user-data-dir={directory}"),
        ];
        let wanted = json!({
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        });
        let made = browser.say("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        if let Some(process) = made["capabilities"]["goog:processID"].as_u64() {
            browser.watchdog.watch(u32::try_from(process).expect("a process id"));
        }
        browser
    }

    pub fn open(&self, address: &str) {
        self.order("/url", &json!({"url": address}));
    }

    /// Draws for this screen from now on.
    pub fn show_on(&self, screen: Screen) {
        let Screen { width, height, is_phone, is_dark } = screen;
        let (scale, scheme) = (if is_phone { 2 } else { 1 }, if is_dark { "dark" } else { "light" });
        let size = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &scheme);
    }

    /// The value of an expression in the page.
    pub fn value(&self, expression: &str) -> Value {
        self.order("/execute/sync", &json!({"script": format!("return {expression};"), "args": []}))
    }

    /// The text that is shown of a node; `None` while there is no such node, or it is not shown.
    pub fn text(&self, selector: &str) -> Option<String> {
        let text = self.value(&format!("document.querySelector({selector:?})?.checkVisibility() ? document.querySelector({selector:?}).innerText : null"));
        text.as_str().map(str::to_owned)
    }

    /// Waits until the text of a node is what is wanted, and returns it.
    #[track_caller]
    pub fn poll_for_text(&self, selector: &str, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = None;
        let found = poll::poll_within(poll::HANG_LIMIT, || {
            last = self.text(selector);
            last.clone().filter(|text| is_so(text))
        });
        found.unwrap_or_else(|| panic!("{selector}: waited in vain until {what}; it shows {last:?}"))
    }

    /// A click of the mouse where the node is; it must be there and not be covered.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let node = self.node(selector);
        self.order(&format!("/element/{node}/click"), &json!({}));
    }

    /// Keys, one after the other, into a field.
    #[track_caller]
    pub fn type_into(&self, selector: &str, text: &str) {
        let node = self.node(selector);
        self.order(&format!("/element/{node}/value"), &json!({"text": text}));
    }

    /// Keys to whatever has the focus.
    pub fn press(&self, keys: &str) {
        let down_and_up = |key: char| {
            let key = key.to_string();
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        };
        let strokes: Vec<Value> = keys.chars().flat_map(down_and_up).collect();
        self.order("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// A picture of the window, or of the whole page.
    pub fn photograph(&self, file: &Path, is_whole_page: bool) {
        let options = json!({"format": "png", "captureBeyondViewport": is_whole_page});
        let picture = self.devtools("Page.captureScreenshot", &options);
        let picture = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        std::fs::write(file, picture).expect("written");
        say(&format!("picture: {}", file.display()));
    }

    /// What the browser wrote down since it was last asked.
    pub fn told(&self) -> Told {
        let mut told = Told::default();
        let entries = |kind: &str| self.order("/se/log", &json!({"type": kind}));
        for entry in entries("performance").as_array().expect("a list") {
            let message = entry["message"].as_str().expect("a text");
            let event: Value = serde_json::from_str(message).expect("JSON in JSON");
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let address = &event["message"]["params"]["request"]["url"];
                told.requests.push(address.as_str().expect("an address").to_owned());
            }
        }
        for entry in entries("browser").as_array().expect("a list") {
            if entry["level"] != "INFO" && entry["level"] != "DEBUG" {
                told.complaints.push(entry["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        told
    }

    #[track_caller]
    fn node(&self, selector: &str) -> String {
        let found = self.order("/element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().expect("an element has an id").to_owned()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.order("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    #[track_caller]
    fn order(&self, path: &str, body: &Value) -> Value {
        self.say("POST", &format!("/session/{}{path}", self.session), body)
    }

    #[track_caller]
    fn say(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.try_say(method, path, Some(body)).expect("the driver answers");
        assert!(answer["error"].is_null(), "{method} {path} {body}: {answer}");
        answer
    }

    /// `None`: the driver is not there.
    fn try_say(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number)).ok()?;
        stream.set_read_timeout(Some(poll::HANG_LIMIT)).expect("a socket");
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        // The driver keeps a connection whatever it is told: the answer ends where it says.
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let mut whole: Value = serde_json::from_slice(&body).ok()?;
        Some(whole["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session; the watchdog ends whatever does not.
        if !self.session.is_empty() {
            let _ = self.try_say("DELETE", &format!("/session/{}", self.session), None);
        }
        let _ = self.driver.kill();
        if self.driver.wait().is_ok() {
            self.watchdog.forget(self.driver.id());
        }
    }
}
