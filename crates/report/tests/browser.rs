//! Opens the report in headless Chromium: the page is complete, hostile text stays text, the console is empty, the page
//! requests nothing, and hovering shows the values of the tables.
//!
//! Without Chromium the tests are skipped with a message; with `FATHOM_TEST_REQUIRE=1` they fail instead.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fathom_report::study::{StudyCell, StudyData, StudyModel, StudyPage};
use fathom_results::fixture;

const ATTACK: &str = "</script></title></svg><img src=http://elsewhere.invalid/x.png onerror=alert(1)>";
/// A slow machine takes seconds; a browser that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the browser made of a page.
struct Opened {
    dom: String,
    console: Vec<String>,
    requests: Vec<String>,
}

/// Reports that a test was skipped, or fails it where `FATHOM_TEST_REQUIRE=1` asks for every test to run.
fn skip(why: &str) {
    let required =
        std::env::var("FATHOM_TEST_REQUIRE").is_ok_and(|v| v.split(',').any(|n| n == "1" || n == "browser"));
    assert!(!required, "FATHOM_TEST_REQUIRE asks for this test, but {why}");
    // Straight to the stream: the harness hides what a passing test prints.
    let _ = writeln!(std::io::stderr(), "skipped: {why}, so the report was not opened in a browser");
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|p| p.is_file())
}

/// Opens a page; `None` if the browser does not start.
fn open(browser: &Path, folder: &Path, page: &str) -> Option<Opened> {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("page.html"), page).unwrap();
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"])
        .args(["--window-size=1280,20000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", at("profile").display()))
        .arg(format!("--log-net-log={}", at("net.json").display()))
        .arg(format!("file://{}", at("page.html").display()))
        .stdout(File::create(at("dom")).unwrap())
        .stderr(File::create(at("log")).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .ok()?;
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let read = |name: &str| String::from_utf8_lossy(&fs::read(at(name)).unwrap_or_default()).into_owned();
    let console = read("log").lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    Some(Opened { dom: read("dom"), console, requests: requests(&read("net.json")) })
}

/// The requests of the page itself; those of the browser have no origin.
fn requests(log: &str) -> Vec<String> {
    let log: serde_json::Value = serde_json::from_str(log).unwrap_or_default();
    let of_page = |event: &serde_json::Value| {
        let parameters = event.get("params")?;
        let (url, initiator) = (parameters.get("url")?.as_str()?, parameters.get("initiator")?.as_str()?);
        let outside = !url.starts_with("data:") && !url.starts_with("file:");
        (outside && initiator != "not an origin").then(|| url.to_owned())
    };
    log["events"].as_array().into_iter().flatten().filter_map(of_page).collect()
}

/// The browser, if it starts here and its requests and errors can be observed.
fn ready(folder: &Path) -> Option<PathBuf> {
    let Some(browser) = chromium() else {
        skip("no Chromium is installed");
        return None;
    };
    let page = "<!doctype html><img src=\"http://elsewhere.invalid/x.png\"><p>whole<script>throw 7</script>";
    match open(&browser, folder, page) {
        Some(opened) if opened.dom.contains("whole") => {
            assert_eq!(opened.requests, ["http://elsewhere.invalid/x.png"], "a request is seen");
            assert!(!opened.console.is_empty(), "an error is seen");
            Some(browser)
        }
        _ => {
            skip("Chromium does not start here");
            None
        }
    }
}

fn hostile() -> fathom_results::Results {
    let mut results = fixture::results();
    results.model.id = ATTACK.to_owned();
    results.data.id = ATTACK.to_owned();
    results.depth[3].reason = Some(ATTACK.to_owned());
    for pair in &mut results.probes.erasure {
        pair.question = ATTACK.to_owned();
        pair.tokens[1] = ATTACK.to_owned();
        pair.tokens[2] = "\u{202e}深い🙂".to_owned();
    }
    results.probes.gradients[0].answer = ATTACK.to_owned();
    results
}

#[track_caller]
fn check(opened: &Opened, figures: usize) {
    assert!(opened.dom.contains("Written by fathom") && opened.dom.trim_end().ends_with("</html>"));
    assert_eq!(opened.dom.matches("<section class=\"figure").count(), figures);
    // The script adds this element, so it ran, and the policy allows it.
    assert!(opened.dom.contains("<div id=\"tip\""));
    assert!(!opened.dom.contains("<img"), "hostile text became an element");
    assert_eq!(opened.dom.matches("<script").count(), 1);
    assert_eq!(opened.console, [""; 0]);
    assert_eq!(opened.requests, [""; 0]);
}

#[test]
fn the_report_opens_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = ready(folder.path()) else { return };
    let results = hostile();
    let run = serde_json::json!({ "command": ["fathom", ATTACK], ATTACK: ATTACK });
    let page = fathom_report::html::render(&results, &run).unwrap();
    let opened = open(&browser, folder.path(), &page).unwrap();
    check(&opened, 1 + fathom_report::plots::figures(&results).len());
}

#[test]
fn the_page_of_a_study_opens_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = ready(folder.path()) else { return };
    let model = StudyModel { name: ATTACK.to_owned(), size: Some(0.1), ..StudyModel::default() };
    let data = StudyData { name: ATTACK.to_owned(), ..StudyData::default() };
    let report = Some("a/b/report.html".to_owned());
    let cell = StudyCell { model: 0, data: 0, results: Some(hostile()), reason: None, report };
    let study = StudyPage {
        title: ATTACK.to_owned(),
        models: vec![model],
        data: vec![data],
        cells: vec![cell],
        ..StudyPage::default()
    };
    let page = fathom_report::study::render(&study).unwrap();
    let opened = open(&browser, folder.path(), &page).unwrap();
    check(&opened, fathom_report::study::figures(&study).len());
}

/// Points at the middle of cells and bars, as a reader would, and appends the texts shown to the page.
const POINTING: &str = r#"<script>
const said = [];
const point = (selector, of, x, y) => {
  const section = Array.from(document.querySelectorAll(".figure"))
    .find((section) => section.querySelector("summary").textContent === "Numbers (" + of + ")");
  const element = section.querySelector(selector);
  const box = element.getBoundingClientRect();
  const [clientX, clientY] = [box.left + x * box.width, box.top + y * box.height];
  element.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX, clientY }));
  said.push(document.getElementById("tip").textContent.replaceAll("\n", "; "));
};
point("image.cells", "erasure_effect_1", 0.5, 0.5);
point("image.cells", "skip_future_layer", 6.5 / 30, 4.5 / 30);
point("image.cells", "similarity_angular_last", 2.5 / 30, 29.5 / 30);
point("g.tip rect", "lens_kl", 0.5, 0.5);
const list = document.createElement("pre");
list.id = "said";
list.textContent = said.join("\n");
document.body.append(list);
</script>"#;

#[test]
fn pointing_at_a_figure_shows_the_value_that_is_in_the_results() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = ready(folder.path()) else { return };
    let results = fixture::results();
    let page = fathom_report::html::render(&results, &fixture::run()).unwrap();
    // The page forbids other scripts, so this test removes its policy.
    let page = page.replace("http-equiv=\"Content-Security-Policy\"", "name=\"taken-away\"");
    let page = page.replace("</body>", &format!("{POINTING}</body>"));
    let opened = open(&browser, folder.path(), &page).unwrap();
    assert_eq!(opened.console, [""; 0]);
    let said = opened.dom.rsplit("<pre id=\"said\">").next().unwrap().split("</pre>").next().unwrap();
    let expected = [
        // The fixture's effect of token t before layer l is (30 - l) / (30 + t); the middle of 5 tokens is 2.
        "token 2 ␣; erased before layer 15; 0.4688",
        // The fixture's effect of layer s on layer l is 1.5 / (l - s).
        "skipped layer 4; later layer 6; 0.75",
        // Its angle over n layers from layer l is sqrt(n / (2 + l)) / 6.
        "block size n 1; first layer l 2; 0.08333",
        "layer 0; KL(lens || output): 9",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}
