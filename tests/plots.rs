//! What stands in plots, and what cannot be plotted.
#![cfg(feature = "plot")]

use sparse_attention_hub::plot::{LinePlot, PlotError, Scale};

fn plot(scale: Scale) -> LinePlot {
    LinePlot::new("A title")
        .x("keys", scale)
        .y("milliseconds", scale)
        .line("dense", [(1024.0, 1.5), (4096.0, 6.0)])
        .line("sink + local", (1..100).map(|at| (f64::from(at) * 40.0, 1.0)))
}

#[test]
fn names_stand_in_the_file() {
    for scale in [Scale::Linear, Scale::Log] {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("plot-{scale:?}.svg"));
        plot(scale).save(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for text in ["<svg", "A title", "keys", "milliseconds", "dense", "sink + local", "</svg>"] {
            assert!(svg.contains(text), "{scale:?}: no `{text}`");
        }
        // Only the short line has its points marked.
        assert_eq!(svg.matches("<circle").count(), 2, "{scale:?}");
        assert_eq!(svg, plot(scale).to_svg().unwrap());
    }
}

#[test]
fn what_cannot_be_plotted_is_named() {
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
    let error = plot(Scale::Log).save("/no/such/folder/plot.svg").unwrap_err();
    assert!(error.to_string().contains("/no/such/folder/plot.svg"), "{error}");
}
