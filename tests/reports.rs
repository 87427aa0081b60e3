//! The content of reports, and how a browser shows them.
#![cfg(feature = "plot")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use sparse_attention_hub::{
    mask::{Mask, MaskShape, Pattern},
    metrics::{MetricLog, MetricLoggerConfig, MetricRegistry, Place, built_in::*},
    plot::{HeatMap, PlotError},
    report::Report,
};

type B = sparse_attention_hub::backend::DefaultBackend;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{}-{name}", std::process::id()))
}

/// Two methods on four layers of six heads. Head 5 of layer 2 has the largest error. The name of one method contains
/// markup.
fn log() -> MetricLog {
    let logger = MetricLoggerConfig::default().init().unwrap();
    for (factor, location) in [(1.0, "top-k"), (2.0, "<script>alert(1)</script>")] {
        let logger = logger.at(location);
        for (layer, head) in (0..24).map(|at| (at / 6, at % 6)) {
            let place = Place::of_layer(layer, 0).with_head(0, head);
            let error = if (layer, head) == (2, 5) { 0.9 } else { 0.001 * (layer * 6 + head) as f64 };
            logger.log(HEAD_OUTPUT_ERROR, error / factor, place).unwrap();
            logger.log(HEAD_DENSITY, factor * 0.01 * (1 + head) as f64, place).unwrap();
            logger.log(HEAD_KV_BYTES, (1 << (10 + layer)) as f64, place).unwrap();
        }
    }
    MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records())
}

fn report() -> Report {
    let shape = MaskShape::new([1, 6, 64, 512]);
    let mask = Mask::<B>::pattern(shape, Pattern { sink: 4, window: 32, offset: 448 }, &Default::default());
    let mask = HeatMap::of_mask("Layer 2, head 5", &mask, 0, 5).unwrap();
    Report::new(log()).unwrap().titled("A run & its heads").with_mask(mask)
}

#[test]
fn a_report_is_self_contained_and_lists_the_worst_head_first() {
    let html = report().to_html().unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<title>A run &amp; its heads</title>"));
    for part in ["head output error", "Layer 2, head 5", "density", "download=\"head_output_error-heads-top-k.csv\""] {
        assert!(html.contains(part), "no `{part}`");
    }
    // Names are escaped, and the page loads nothing from elsewhere.
    assert!(!html.contains("<script>alert"), "a name is markup");
    let elsewhere = ["src=", "@import", "url(", "<link", "href=\"http"];
    assert!(elsewhere.iter().all(|part| !html.contains(part)), "something is fetched");
    let rows = html.split("<tr>").filter(|row| row.contains("<td>")).collect::<Vec<_>>();
    let worst = rows.iter().position(|row| row.contains("<td>top-k</td><td>2</td><td>5</td>")).unwrap();
    // The first two rows are those of the locations.
    assert_eq!(worst, 2);
    assert!(rows[worst].contains("data-value=\"0.9\""), "{}", rows[worst]);
}

#[test]
fn reports_are_written_whole_or_not_at_all() {
    let file = path("written.html");
    let report = report();
    report.save(&file).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap() == report.to_html().unwrap());
    let error = report.save("/no/such/folder/report.html").unwrap_err().to_string();
    assert!(error.contains("/no/such/folder/report.html"), "{error}");
    let empty = Report::new(MetricLog::in_memory(Vec::new(), Vec::new()));
    assert!(matches!(empty, Err(PlotError::Log(_))));
    let log = path("cut-off.jsonl");
    let logger = MetricLoggerConfig::to_file(&log).init().unwrap();
    logger.log_many(HEAD_DENSITY, (0..3).map(|step| (Place::of_layer(0, step), 0.1))).unwrap();
    logger.finish().unwrap();
    let text = std::fs::read(&log).unwrap();
    std::fs::write(&log, &text[..text.len() - 5]).unwrap();
    let html = Report::open(&log).unwrap().to_html().unwrap();
    assert!(html.contains("Line 4 of the log is cut off"), "not said");
}

/// The path at which Debian installs Chromium.
const CHROMIUM: &str = "/usr/bin/chromium";

/// The document of a page in the browser after a script has run in it.
fn shown(name: &str, script: &str, width: u32) -> Option<String> {
    if !Path::new(CHROMIUM).exists() {
        eprintln!("left out: {name} in Chromium, which is not at {CHROMIUM}");
        return None;
    }
    let html = report().to_html().unwrap().replace("</body>", &format!("<script>{script}</script></body>"));
    let (page, profile) = (path(&format!("{name}.html")), path(&format!("{name}-profile")));
    std::fs::write(&page, html).unwrap();
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--dump-dom",
    ];
    let output = Command::new(CHROMIUM)
        .args(flags)
        .arg(format!("--window-size={width},900"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(profile);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_browser_sorts_the_table() {
    // The script sorts by the density of the heads: first by falling, then by rising density.
    let script = "
        const table = document.querySelectorAll('table')[1];
        const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.includes('density'));
        const values = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value).join(' ');
        const click = () => { table.tHead.rows[0].cells[column].querySelector('button').click(); return values(); };
        document.title = [click(), click()].join('|');
    ";
    let Some(dom) = shown("sorting", script, 1400) else { return };
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
    let [down, up] = title.split('|').collect::<Vec<_>>()[..] else { panic!("{title}") };
    let numbers = |text: &str| text.split(' ').map(|number| number.parse::<f64>().unwrap()).collect::<Vec<_>>();
    let (down, up) = (numbers(down), numbers(up));
    assert_eq!((down.len(), up.len()), (48, 48));
    assert!(down.windows(2).all(|two| two[0] >= two[1]) && up.windows(2).all(|two| two[0] <= two[1]));
    assert_eq!((down[0], up[0]), (0.12, 0.01));
}

#[test]
fn a_browser_shows_one_theme_and_no_page_that_is_too_wide() {
    let script = "
        const seen = [...document.querySelectorAll('figure svg')].filter((svg) => svg.getBoundingClientRect().width > 0);
        const wide = seen.filter((svg) => svg.getBoundingClientRect().right > innerWidth).length;
        document.title = [seen.length, document.querySelectorAll('figure').length, wide,
            document.documentElement.scrollWidth - innerWidth].join(' ');
    ";
    for width in [400, 1400] {
        let Some(dom) = shown(&format!("layout-{width}"), script, width) else { return };
        let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
        let [seen, figures, wide, excess] = title.split(' ').collect::<Vec<_>>()[..] else { panic!("{title}") };
        assert_eq!((seen, wide), (figures, "0"), "at {width}: {title}");
        assert!(excess.parse::<i32>().unwrap() <= 0, "at {width}: {title}");
    }
}
