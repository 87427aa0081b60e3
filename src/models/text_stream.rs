use super::{ModelError, Tokenizer};

/// Decodes tokens into text one by one. A character whose bytes are in several tokens is returned with the last of
/// them.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// The first token to decode. A few tokens that were returned before are decoded again, because the tokens before a
    /// token can change its text.
    start: usize,
    /// The number of tokens whose text was returned.
    written: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: Vec::new(), start: 0, written: 0 }
    }

    /// Adds a token and returns the text that is complete.
    ///
    /// # Errors
    /// If the tokens cannot be decoded.
    pub fn push(&mut self, token: u32) -> Result<String, ModelError> {
        self.tokens.push(token);
        self.advance(false)
    }

    /// The remaining text, with `U+FFFD` for an incomplete character.
    ///
    /// # Errors
    /// If the tokens cannot be decoded.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        self.advance(true)
    }

    fn advance(&mut self, incomplete: bool) -> Result<String, ModelError> {
        let before = self.tokenizer.decode(&self.tokens[self.start..self.written], true)?;
        let all = self.tokenizer.decode(&self.tokens[self.start..], true)?;
        if !incomplete && all.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.start = self.written;
        self.written = self.tokens.len();
        Ok(all.strip_prefix(&before).unwrap_or(&all).to_owned())
    }
}
