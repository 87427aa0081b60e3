//! The content of plots, and the errors for data that cannot be plotted.
#![cfg(feature = "plot")]

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use sparse_attention_hub::{
    mask::{Mask, MaskShape, Pattern},
    metrics::{MetricLog, MetricLoggerConfig, MetricRegistry, Place, built_in::*},
    plot::{Granularity, HeatMap, LinePlot, Measured, Plot, PlotError, PlotGenerator, Scale, Theme},
};

type B = sparse_attention_hub::backend::DefaultBackend;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plot-{}-{name}", std::process::id()))
}

fn plot(scale: Scale) -> LinePlot {
    LinePlot::new("A title")
        .x("keys", scale)
        .y("milliseconds", scale)
        .line("dense", [(1024.0, 1.5), (4096.0, 6.0)])
        .line("sink + local", (1..100).map(|at| (f64::from(at) * 40.0, 1.0)))
}

#[test]
fn names_are_in_the_file() {
    for scale in [Scale::Linear, Scale::Log] {
        let path = path(&format!("{scale:?}.svg"));
        plot(scale).save(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["<svg", "A title", "keys", "milliseconds", "dense", "sink + local", "</svg>"] {
            assert!(svg.contains(text), "{scale:?}: no `{text}`");
        }
        // Only the short line has markers and a label.
        assert_eq!(svg.matches("<circle").count(), 3, "{scale:?}");
        assert_eq!(svg, plot(scale).to_svg().unwrap());
    }
}

#[test]
fn pictures_are_saved_by_file_extension() {
    let figure = plot(Scale::Log).figure().unwrap();
    let png = path("format.png");
    figure.save(&png, Theme::Dark).unwrap();
    assert_eq!(std::fs::read(&png).unwrap()[..8], *b"\x89PNG\r\n\x1a\n");
    for name in ["format.gif", "format"] {
        let error = figure.save(path(name), Theme::Light).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("`.svg` or `.png`"), "{error}");
        assert!(!path(name).exists());
    }
    let error = plot(Scale::Log).save("/no/such/folder/plot.svg").unwrap_err();
    assert!(error.to_string().contains("/no/such/folder/plot.svg"), "{error}");
}

#[test]
fn data_that_cannot_be_plotted_is_named() {
    let empty = LinePlot::new("nothing");
    assert!(matches!(empty.to_svg(), Err(PlotError::NoSeries { .. })));
    let error = plot(Scale::Linear).line("bare", []).to_svg().unwrap_err();
    assert!(matches!(&error, PlotError::EmptySeries { series, .. } if series == "bare"), "{error}");
    for point in [(f64::NAN, 1.0), (1.0, f64::INFINITY)] {
        let error = plot(Scale::Linear).line("wild", [point]).to_svg().unwrap_err();
        assert!(matches!(&error, PlotError::Point { series, .. } if series == "wild"), "{error}");
    }
    assert!(plot(Scale::Linear).line("low", [(0.0, -1.0)]).to_svg().is_ok());
    assert!(matches!(plot(Scale::Log).line("low", [(1.0, 0.0)]).to_svg(), Err(PlotError::Point { .. })));
    for (low, high) in [(1.5, 2.0), (0.5, 0.9), (f64::NAN, 2.0), (0.0, 2.0)] {
        let bars = plot(Scale::Log).line_with_ranges("bars", [Measured { x: 1.0, y: 1.0, low, high }]);
        assert!(matches!(bars.to_svg(), Err(PlotError::Range { .. })), "{low} to {high}");
    }
}

#[test]
fn markup_in_names_is_escaped() {
    let svg = LinePlot::new("<b>&\"").line("a <i> & 'b'", [(0.0, 1.0)]).to_svg().unwrap();
    assert!(!svg.contains("<b>") && !svg.contains("<i>"), "{svg}");
    assert!(svg.contains("&lt;i&gt; &amp;"), "{svg}");
}

/// The texts of an image, one after the other.
fn texts(svg: &str) -> String {
    svg.lines().filter(|line| !line.starts_with('<')).collect::<Vec<_>>().join(" ")
}

/// The cells of a heat map, from its table.
fn cells(map: &HeatMap) -> Vec<(usize, usize, f64)> {
    let csv = map.to_csv();
    let cell = |line: &str| {
        let [row, column, value] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (row.parse().unwrap(), column.parse().unwrap(), value.parse().unwrap())
    };
    csv.lines().skip(1).map(cell).collect()
}

#[test]
fn cells_of_large_maps_are_the_largest_of_their_values() {
    let (rows, columns) = (300, 513);
    let value = |row: usize, column: usize| ((row * 7919 + column * 104_729) % 1009) as f64;
    let values = (0..rows * columns).map(|at| value(at / columns, at % columns)).collect();
    let map = HeatMap::new("large", rows, columns, values).unwrap();
    // A cell covers three of the 300 rows and five of the 513 columns. The last column of cells is narrower.
    let cells = cells(&map);
    assert_eq!(cells.len(), 100 * 103);
    for (row, column, found) in cells {
        let wanted =
            (row..(row + 3).min(rows)).flat_map(|r| (column..(column + 5).min(columns)).map(move |c| value(r, c)));
        assert_eq!(found, wanted.fold(0.0, f64::max), "{row}, {column}");
    }
    let svg = map.figure().unwrap().to_svg(Theme::Light).unwrap();
    assert!(texts(&svg).contains("Each cell shows the largest of up to 3 x 5 values; there are 300 x 513."));
    let small = HeatMap::new("small", 2, 3, vec![0.0, f64::NAN, 0.5, 1.0, f64::INFINITY, 0.0]).unwrap();
    let svg = small.figure().unwrap().to_svg(Theme::Light).unwrap();
    let texts = texts(&svg);
    assert!(texts.contains("Infinite, and drawn as the ends of the shades: 1 cells."), "{texts}");
    assert!(texts.contains("Grey, without a value: 1 cells.") && !texts.contains("largest"), "{texts}");
    assert_eq!(small.extremes(), Some((0.0, 1.0)));
}

#[test]
fn a_mask_of_four_thousand_keys_is_a_map() {
    let shape = MaskShape::new([1, 2, 4096, 4096]);
    let pattern = Pattern { sink: 1, window: 5, offset: 0 };
    let mask = Mask::<B>::pattern(shape, pattern, &Default::default());
    let map = HeatMap::of_mask("sink and window", &mask, 0, 1).unwrap();
    for (row, column, kept) in cells(&map) {
        // The kept blocks are those of the first key, of the diagonal, and of the block before the diagonal, into which
        // the window reaches.
        let wanted = column == 0 || row == column || row == column + 32;
        assert_eq!(kept, f64::from(u8::from(wanted)), "{row}, {column}");
    }
    let svg = map.figure().unwrap().to_svg(Theme::Light).unwrap();
    assert!(texts(&svg).contains("largest of up to 32 x 32 values; there are 4096 x 4096."));
    assert!(svg.len() < 200_000, "{} bytes", svg.len());
    let error = HeatMap::of_mask("none", &mask, 0, 2).unwrap_err().to_string();
    assert!(error.contains("head 2") && error.contains("1 and 2"), "{error}");
}

#[test]
fn weights_of_a_head_are_a_map() {
    let values = (0..24).map(|at| at as f32 / 32.0).collect::<Vec<_>>();
    let weights = Tensor::<B, 4>::from_data(TensorData::new(values, [1, 2, 3, 4]), &Default::default());
    let map = HeatMap::of_weights("weights", &weights, 0, 1).unwrap();
    let wanted = (0..12).map(|at| (at / 4, at % 4, (12 + at) as f64 / 32.0)).collect::<Vec<_>>();
    assert_eq!(cells(&map), wanted);
    assert!(HeatMap::of_weights("weights", &weights, 1, 0).is_err());
    assert!(matches!(HeatMap::new("few", 2, 3, vec![0.0; 5]), Err(PlotError::Values { values: 5, .. })));
    assert!(matches!(HeatMap::new("none", 0, 3, vec![]), Err(PlotError::NoSeries { .. })));
    let upside_down = HeatMap::new("range", 1, 1, vec![0.0]).unwrap().range(1.0, 0.0);
    assert!(matches!(upside_down.figure(), Err(PlotError::Shades { .. })));
}

/// Two methods on three layers of four heads, with a step of three queries and two steps of one query.
fn log() -> MetricLog {
    let logger = MetricLoggerConfig::default().init().unwrap();
    for (factor, location) in [(1.0, "a"), (10.0, "b, \"c\"")] {
        let logger = logger.at(location);
        for (layer, head) in (0..12).map(|at| (at / 4, at % 4)) {
            for (step, queries) in [(0, 3), (1, 1), (2, 1)] {
                let place = Place::of_layer(layer, step).with_head(0, head);
                logger.log(HEAD_DENSITY, factor * (layer * 4 + head) as f64, place).unwrap();
                logger.log(HEAD_OUTPUT_ERROR, factor * step as f64, place).unwrap();
                for query in 0..queries {
                    let token = if step == 0 { query } else { 2 + step as usize };
                    logger.log(QUERY_DENSITY, factor * token as f64, place.with_query(query)).unwrap();
                }
            }
        }
    }
    MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records())
}

fn table(plot: &Plot) -> Vec<String> {
    plot.to_csv().lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn plots_of_a_log_show_its_means() {
    let generator = PlotGenerator::new(log()).unwrap();
    let maps = generator.plot(HEAD_DENSITY, Granularity::PerHead).unwrap();
    let names = maps.iter().map(|map| map.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["head_density-heads-a", "head_density-heads-b---c-"]);
    let wanted = (0..12).map(|at| format!("{},{},{}", at / 4, at % 4, 10 * at)).collect::<Vec<_>>();
    assert_eq!(table(&maps[1]), wanted);
    let layers = &generator.plot(HEAD_DENSITY, Granularity::PerLayer).unwrap()[0];
    let of_a = ["a,0,1.5,0,3", "a,1,5.5,4,7", "a,2,9.5,8,11"];
    assert_eq!(table(layers)[..3], of_a);
    assert_eq!(table(layers)[3], "\"b, \"\"c\"\"\",0,15,0,30");
    let tokens = &generator.plot(QUERY_DENSITY, Granularity::PerToken).unwrap()[0];
    assert_eq!(
        table(tokens)[..5],
        (0..5).map(|token| format!("a,{token},{token},{token},{token}")).collect::<Vec<_>>()
    );
    let steps = &generator.plot(HEAD_OUTPUT_ERROR, Granularity::PerToken).unwrap()[0];
    assert_eq!(table(steps)[..3], (0..3).map(|step| format!("a,{step},{step},{step},{step}")).collect::<Vec<_>>());
    let over = generator.over(HEAD_OUTPUT_ERROR, HEAD_DENSITY).unwrap();
    assert_eq!(table(&over), ["a,5.5,1,1,1", "\"b, \"\"c\"\"\",55,10,10,10"]);
}

#[test]
fn all_plots_are_drawn_and_written() {
    let generator = PlotGenerator::new(log()).unwrap();
    let all = generator.all();
    let mut names = all.iter().map(|plot| plot.name.clone()).collect::<Vec<_>>();
    assert_eq!(names[0], "head_output_error-over-head_density");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all.len());
    let folder = path("all");
    let files = generator.save_all(&folder, Theme::Light).unwrap();
    assert_eq!(files.len(), all.len());
    assert!(files.iter().all(|file| std::fs::read_to_string(file).unwrap().ends_with("</svg>\n")));
    let error = generator.save_all("/proc/no/folder", Theme::Light).unwrap_err().to_string();
    assert!(error.contains("/proc/no/folder"), "{error}");
}

#[test]
fn logs_with_odd_places_and_names_are_plotted() {
    let logger = MetricLoggerConfig::default().init().unwrap();
    for location in ["a b", "a-b", "a/b"] {
        let place = Place::of_layer(usize::MAX, u64::MAX).with_head(0, 1 << 40);
        logger.at(location).log(HEAD_DENSITY, 0.5, place).unwrap();
    }
    let log = MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records());
    let all = PlotGenerator::new(log).unwrap().all();
    let names = all.iter().map(|plot| plot.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["head_density-heads-a-b", "head_density-heads-a-b-2", "head_density-heads-a-b-3"]);
    assert!(all.iter().all(|plot| plot.figure().is_ok()));
}

#[test]
fn missing_records_are_named() {
    let generator = PlotGenerator::new(log()).unwrap();
    let error = generator.plot("head_destiny", Granularity::PerHead).unwrap_err().to_string();
    for part in ["the log in memory", "`head_destiny`", HEAD_DENSITY, QUERY_DENSITY] {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
    let logger = MetricLoggerConfig::default().init().unwrap();
    logger.log(HEAD_DENSITY, 0.5, Place::default()).unwrap();
    let placeless = MetricLog::in_memory(MetricRegistry::new().metrics().to_vec(), logger.records());
    let generator = PlotGenerator::new(placeless).unwrap();
    for granularity in [Granularity::PerHead, Granularity::PerToken, Granularity::PerLayer] {
        let error = generator.plot(HEAD_DENSITY, granularity).unwrap_err();
        assert!(matches!(error, PlotError::NoRecords { .. }), "{granularity:?}: {error}");
    }
    assert!(generator.all().is_empty());
    let empty = PlotGenerator::new(MetricLog::in_memory(Vec::new(), Vec::new())).unwrap_err().to_string();
    assert!(empty.contains("logged nothing"), "{empty}");
    assert!(matches!(PlotGenerator::open("/no/such/run.jsonl"), Err(PlotError::Log(_))));
}
