/// Looks in a text that comes in parts for texts at which it is to end, and holds back what may be the beginning of one.
#[derive(Debug, Clone)]
pub(super) struct StopStrings {
    stop: Vec<String>,
    /// What came and has not been let through; below `let_through` it has.
    text: String,
    let_through: usize,
    found: bool,
}

impl StopStrings {
    /// Looks for some texts; empty ones are never found.
    pub fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stop, text: String::new(), let_through: 0, found: false }
    }

    /// Whether one of the texts has come.
    pub fn found(&self) -> bool {
        self.found
    }

    /// What can be let through with the next part.
    pub fn push(&mut self, part: &str) -> &str {
        self.text.drain(..self.let_through);
        self.let_through = 0;
        if self.found {
            return "";
        }
        self.text.push_str(part);
        self.let_through = match self.stop.iter().filter_map(|stop| self.text.find(stop)).min() {
            Some(at) => {
                self.found = true;
                at
            }
            None => self.text.len() - self.stop.iter().map(|stop| self.begun(stop)).max().unwrap_or(0),
        };
        &self.text[..self.let_through]
    }

    /// What was held back, once nothing more comes.
    pub fn finish(&mut self) -> &str {
        self.text.drain(..self.let_through);
        self.let_through = if self.found { 0 } else { self.text.len() };
        &self.text[..self.let_through]
    }

    /// How many bytes at the end of the text are the beginning of one to stop at.
    fn begun(&self, stop: &str) -> usize {
        let lengths = stop.char_indices().map(|(at, _)| at).rev();
        lengths.into_iter().find(|&length| self.text.ends_with(&stop[..length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(stop: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut strings = StopStrings::new(&stop.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>());
        let mut out = parts.iter().map(|part| strings.push(part).to_owned()).collect::<Vec<_>>();
        out.push(strings.finish().to_owned());
        (out, strings.found())
    }

    #[test]
    fn texts_are_found_across_parts() {
        assert_eq!(through(&["\nQ:"], &["a", "b\n", "Q", ": c", "d"]), (as_texts(&["a", "b", "", "", "", ""]), true));
        // What only began as one comes out after all, in its place.
        assert_eq!(through(&["\nQ:"], &["b\n", "Qx", "\n"]), (as_texts(&["b", "\nQx", "", "\n"]), false));
        // The first of several that are there, and characters of several bytes.
        assert_eq!(through(&["ü!", "é"], &["ü", "xéü!"]), (as_texts(&["", "üx", ""]), true));
        assert_eq!(through(&[""], &["abc"]), (as_texts(&["abc", ""]), false));
    }

    fn as_texts(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }
}
