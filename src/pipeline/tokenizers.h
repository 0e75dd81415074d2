// The tokenizers of a model's text encoders, and where T5's vocabulary may lie.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "formats/gguf_value.h"
#include "pipeline/model_files.h"
#include "text/tokenizer.h"
#include "text/unigram_files.h"

namespace atelier {

/// One tokenizer for each encoder of `parts.def->text`, in that order; encoders of one kind share
/// theirs. All parts must have been found.
///
/// T5's is `t5` if that names a file or a folder; else it is looked for in the encoder's file
/// (GGUF metadata, a tensor `spiece_model`), then as spiece.model or tokenizer.json in the
/// tokenizer_2 folder of a diffusers model, beside the encoder's file, beside the model's file,
/// and in t5/ of the data folder. Throws `not_found` that says where to put one, `mismatch` for
/// one with more pieces than the encoder has embeddings, and as `read_unigram` does.
std::vector<std::shared_ptr<const Tokenizer>> open_tokenizers(const ModelParts& parts,
                                                              const std::filesystem::path& t5 = {});

/// The unigram vocabulary in a GGUF file's metadata, or nothing where it has none. Throws
/// `malformed` for one that contradicts itself.
/// Source: ggml-org/llama.cpp, convert_hf_to_gguf.py, what it writes for T5.
std::optional<UnigramVocabulary> gguf_vocabulary(const GgufMetadata& metadata,
                                                 std::string_view subject);

}  // namespace atelier
