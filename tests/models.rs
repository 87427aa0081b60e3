//! Language models from folders: the errors of bad folders, the generation of text, and the predictions of the model
//! that comes with the examples.

#[path = "models/bad_folders.rs"]
mod bad_folders;
mod common;
#[path = "models/configurations.rs"]
mod configurations;
#[path = "models/folder.rs"]
mod folder;
#[path = "models/generation.rs"]
mod generation;
#[path = "models/headers.rs"]
mod headers;
#[path = "models/reference_answers.rs"]
mod reference_answers;
#[path = "models/samples.rs"]
mod samples;
#[path = "models/shipped.rs"]
mod shipped;
#[path = "models/tiny_models.rs"]
mod tiny_models;

use bad_folders::{
    a_prompt_that_is_too_long_is_refused_as_a_whole, methods_for_another_model_are_refused, missing_files_are_named,
    numbers_that_the_backend_has_not_are_refused, tokenizers_of_another_model_are_refused,
    weights_that_do_not_fit_are_named_together,
};
use common::on_host_backends;
use generation::{
    a_recording_is_the_same_in_chunks, an_empty_method_is_dense, callers_of_a_model_say_the_phase,
    forks_of_a_context_give_what_separate_caches_give, generation_stops_where_it_should,
    phases_of_a_method_are_those_of_generation, prompts_in_chunks_give_the_same, seeds_draw_the_same,
};
use reference_answers::{answers_of_the_reference, short_answers_of_the_reference};
use shipped::{greedy_text, needles, perplexities_of_the_reference};
use tiny_models::tiny_models_are_as_in_transformers;

on_host_backends!(
    missing_files_are_named,
    weights_that_do_not_fit_are_named_together,
    tokenizers_of_another_model_are_refused,
    a_prompt_that_is_too_long_is_refused_as_a_whole,
    methods_for_another_model_are_refused,
    numbers_that_the_backend_has_not_are_refused,
    generation_stops_where_it_should,
    forks_of_a_context_give_what_separate_caches_give,
    prompts_in_chunks_give_the_same,
    an_empty_method_is_dense,
    phases_of_a_method_are_those_of_generation,
    callers_of_a_model_say_the_phase,
    seeds_draw_the_same,
    a_recording_is_the_same_in_chunks,
    tiny_models_are_as_in_transformers,
    greedy_text,
    needles,
    short_answers_of_the_reference;
    host: perplexities_of_the_reference, answers_of_the_reference,
);
