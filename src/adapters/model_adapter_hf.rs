use burn::tensor::backend::Backend;

use super::{Answer, ModelHubAdapterInterface, Request, RequestOptions, Response, SparseAttentionAdapterInterface};
use crate::{
    method::MaskerChainConfig,
    models::{ChatMessage, Generated, GenerationConfig, LanguageModelCache, ModelError, PREFILL_CHUNK, Pretrained},
    nn::AttentionMode,
};

/// The adapter for a model from a HuggingFace folder.
///
/// The context goes through the model once, with dense attention. Each question is answered from this cache,
/// independently of the other questions. Question and answer attend in the adapter's
/// [mode](SparseAttentionAdapterInterface::mode), which by default runs the methods of the layers. Of a method with
/// phases, the question runs `prefill` and the answer runs `decode`. Decoding is greedy,
/// unless the model's generation configuration asks for sampling.
///
/// If the model has a chat template, context and question become one message of the user. Otherwise they are joined
/// without changes.
///
/// # Example
/// ```no_run
/// # #[cfg(feature = "flex")] {
/// use burn::tensor::DType;
/// use burn_flex::Flex;
/// use sparse_attention_hub::{
///     adapters::{ModelAdapterHF, ModelHubAdapterInterface, Request, RequestOptions},
///     method::MaskerChainConfig,
///     models::Pretrained,
/// };
///
/// let method = MaskerChainConfig::from_file("configs/streaming_llm.json")?;
/// let pretrained = Pretrained::<Flex>::from_directory("folder", &method, DType::F32, &Default::default())?;
/// let request = Request {
///     context: "The pass key is 71432. Remember it.".to_owned(),
///     questions: vec!["\nWhat is the pass key?".to_owned()],
///     answer_prefix: " The pass key is".to_owned(),
/// };
/// let response = ModelAdapterHF::new(pretrained).process_request(&request, &RequestOptions::default())?;
/// println!("{}", response.responses[0]);
/// # }
/// # Ok::<(), sparse_attention_hub::models::ModelError>(())
/// ```
pub struct ModelAdapterHF<B: Backend> {
    pretrained: Pretrained<B>,
    cache: LanguageModelCache<B>,
    mode: AttentionMode,
}

/// The texts that a request sends to the model.
struct Texts {
    context: String,
    /// Whether the tokenizer adds the tokens that begin a sequence. A chat template already contains them.
    special_tokens: bool,
    /// The text between a question and its answer.
    after_question: String,
}

impl<B: Backend> ModelAdapterHF<B> {
    /// Creates an adapter for a model.
    pub fn new(pretrained: Pretrained<B>) -> Self {
        let cache = pretrained.model.cache(pretrained.generation.seed);
        Self { pretrained, cache, mode: AttentionMode::Sparse }
    }

    /// The model.
    pub fn pretrained(&self) -> &Pretrained<B> {
        &self.pretrained
    }

    /// Takes the model out of the adapter.
    pub fn into_pretrained(self) -> Pretrained<B> {
        self.pretrained
    }

    fn texts(&self, request: &Request) -> Result<Texts, ModelError> {
        if !self.pretrained.tokenizer.has_chat_template() {
            let after_question = String::new();
            return Ok(Texts { context: request.context.clone(), special_tokens: true, after_question });
        }
        // The placeholder is longer than the context, so that the context cannot contain it.
        let place = "#".repeat(request.context.len() + 8);
        let message = ChatMessage::new("user", format!("{}{place}", request.context));
        let rendered = self.pretrained.tokenizer.chat(&[message])?;
        match rendered.split_once(&place) {
            Some((context, after)) => {
                Ok(Texts { context: context.to_owned(), special_tokens: false, after_question: after.to_owned() })
            }
            None => Err(ModelError::ChatTemplate { reason: "it changes what the user says".to_owned() }),
        }
    }

    /// Answers a question about the context in the cache.
    fn answer(&mut self, question: Vec<u32>, config: &GenerationConfig) -> Result<(String, Answer), ModelError> {
        let (mut first, mut then) = (self.mode, self.mode);
        let written =
            self.pretrained.write(&question, &mut self.cache, config, [&mut first, &mut then], &mut |_| {})?;
        let Generated { tokens, reason, .. } = written.generated;
        Ok((written.text, Answer { question, tokens, reason }))
    }
}

impl<B: Backend> ModelHubAdapterInterface for ModelAdapterHF<B> {
    fn process_request(&mut self, request: &Request, options: &RequestOptions) -> Result<Response, ModelError> {
        let Texts { context, special_tokens, after_question } = self.texts(request)?;
        let mut context = self.pretrained.tokenizer.encode(&context, special_tokens)?;
        context.truncate(options.max_context_length.unwrap_or(usize::MAX));
        let mut config = self.pretrained.generation.clone();
        config.max_new_tokens = options.max_new_tokens.unwrap_or(config.max_new_tokens);
        config.stop.extend(options.stop.iter().cloned());
        let question = |question: &String| {
            let text = format!("{question}{after_question}{}", request.answer_prefix);
            self.pretrained.tokenizer.encode(&text, false)
        };
        // All questions are checked first, so that none is refused after others have been answered.
        let questions = request.questions.iter().map(question).collect::<Result<Vec<_>, _>>()?;
        let positions = self.pretrained.model.config().max_positions;
        for question in &questions {
            match context.len() + question.len() {
                0 => return Err(ModelError::NoTokens),
                tokens if tokens > positions => return Err(ModelError::TooLong { tokens, positions }),
                _ => {}
            }
        }
        self.cache.reset();
        if !context.is_empty() {
            let model = &self.pretrained.model;
            model.prefill(&context, &mut self.cache, PREFILL_CHUNK, &mut AttentionMode::Dense)?;
        }
        let mut response = Response { responses: Vec::new(), context, answers: Vec::new() };
        for question in questions {
            // A question overwrites the previous one in place. A fork of the cache would copy the keys and values of the
            // context for each question. The context was prefilled without the methods. Clearing their memory therefore
            // restores the state before the question.
            self.cache.truncate(response.context.len()).map_err(|source| ModelError::Layer { layer: 0, source })?;
            self.cache.forget_states();
            let (text, answer) = self.answer(question, &config)?;
            response.responses.push(text);
            response.answers.push(answer);
        }
        Ok(response)
    }
}

impl<B: Backend> SparseAttentionAdapterInterface for ModelAdapterHF<B> {
    fn set_method(&mut self, method: &MaskerChainConfig) -> Result<(), ModelError> {
        self.pretrained.model.set_method(method)
    }

    fn mode(&self) -> AttentionMode {
        self.mode
    }

    fn set_mode(&mut self, mode: AttentionMode) -> AttentionMode {
        std::mem::replace(&mut self.mode, mode)
    }
}
