// Prompt weights, joining of chunks and encoders, vectors of sizes.
#include "pipeline/conditioning.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "nn/layers.h"

namespace atelier {
namespace {

constexpr int64_t kSinusoids = 256;

TokenChunk to_chunk(const std::vector<Token>& tokens, const EmbeddingFolder* embeddings) {
  TokenChunk chunk;
  for (const Token& token : tokens) {
    if (const auto* id = std::get_if<int32_t>(&token.value)) {
      chunk.ids.push_back(*id);
      continue;
    }
    const auto& row = std::get<EmbeddingRow>(token.value);
    ATELIER_CHECK(embeddings);
    chunk.vectors.push_back({.position = static_cast<int64_t>(chunk.ids.size()),
                             .values = embeddings->vectors(row.handle)[row.row]});
    chunk.ids.push_back(0);
  }
  return chunk;
}

// [1, T, 1]
at::Tensor weights_of(const std::vector<Token>& tokens) {
  std::vector<double> weights;
  for (const Token& token : tokens) weights.push_back(token.weight);
  return at::tensor(weights, at::kFloat).view({1, -1, 1});
}

// Tokens of weight 1 stay exactly as they are.
at::Tensor weigh(const at::Tensor& state, const at::Tensor& nothing, const at::Tensor& weights) {
  return at::where(weights == 1, state, nothing + (state - nothing) * weights);
}

// SDXL's vectors begin with the projected state, FLUX's are the plain one.
bool projects(VectorKind kind) {
  return kind == VectorKind::sdxl || kind == VectorKind::sdxl_refiner;
}

constexpr size_t kMostChunks = 64;  // of a prompt; what a denoiser attends to grows with them

/// The prompt as tokens for one encoder. Throws `invalid_argument` for one that is too long.
TokenChunks tokens_for(const TextPart& part, const PromptEncoder& by, const EncoderRules& rules,
                       std::string_view prompt, const PromptReader& reader) {
  TokenChunks text = tokenize(prompt, by.tokenizer, rules, reader.embeddings);
  const auto refuse = [&](std::string expected, size_t found) {
    const Error error(
        ErrorCode::invalid_argument,
        {.subject = "prompt", .expected = std::move(expected), .found = std::to_string(found)});
    throw by.file.empty() ? error : error.within(by.file);
  };
  const size_t length = text.chunks[0].size(), count = text.chunks.size();
  if (const auto most = static_cast<size_t>(by.encoder.positions()); length > most)
    refuse(fmt::format("at most {} tokens, as the encoder takes", most), length);
  if (part.use != TextUse::pooled && count > kMostChunks)
    refuse(fmt::format("at most {} tokens, {} at a time", kMostChunks * length, length),
           count * length);
  return text;
}

EncoderRules rules_for(const TextPart& part, const PromptEncoder& by) {
  EncoderRules rules = encoder_rules(part.encoder->name);
  rules.width = static_cast<int32_t>(by.encoder.width());
  return rules;
}

TextEncoding encode_part(const TextPart& part, const PromptEncoder& by, const ModelDef& def,
                         std::string_view prompt, const PromptReader& reader,
                         std::vector<std::string>& warnings) {
  EncoderRules rules = rules_for(part, by);
  const TokenChunks text = tokens_for(part, by, rules, prompt, reader);
  rules.min_length = std::max(rules.min_length, static_cast<int32_t>(text.chunks[0].size()));
  const TokenChunks empty = tokenize("", by.tokenizer, rules);
  warnings.insert(warnings.end(), text.warnings.begin(), text.warnings.end());
  const TextOptions options{.layer = reader.layer.value_or(def.clip_skip),
                            .final_norm = def.clip_final_norm,
                            .project = projects(def.vector)};
  try {
    return encode_tokens(by.encoder, text, empty, options, reader.embeddings);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::invalid_argument || by.file.empty()) throw;
    throw error.within(by.file);
  }
}

// Numbers in the order the family expects them.
std::vector<double> measures_of(VectorKind kind, const PictureMeasures& m) {
  const std::vector<int64_t> sizes{m.height, m.width, m.crop_y, m.crop_x};
  std::vector<double> values(sizes.begin(), sizes.end());
  if (kind == VectorKind::sdxl_refiner) {
    values.push_back(m.score);
  } else {
    values.push_back(static_cast<double>(m.target_height));
    values.push_back(static_cast<double>(m.target_width));
  }
  return values;
}

}  // namespace

TextEncoding encode_tokens(const TextEncoder& encoder, const TokenChunks& text,
                           const TokenChunks& empty, const TextOptions& options,
                           const EmbeddingFolder* embeddings) {
  std::vector<TokenChunk> chunks;
  for (const auto& tokens : text.chunks) chunks.push_back(to_chunk(tokens, embeddings));
  const bool weighted = text.weighted();
  if (weighted) chunks.push_back(to_chunk(empty.chunks.at(0), nullptr));
  const TextEncoding said = encoder.encode(chunks, options);

  std::vector<at::Tensor> states;
  for (size_t i = 0; i < text.chunks.size(); ++i) {
    const at::Tensor state = said.hidden.narrow(0, static_cast<int64_t>(i), 1);
    const at::Tensor nothing = said.hidden.narrow(0, said.hidden.size(0) - 1, 1);
    states.push_back(weighted ? weigh(state, nothing, weights_of(text.chunks[i])) : state);
  }
  return {at::cat(states, 1), said.pooled.defined() ? said.pooled.narrow(0, 0, 1) : at::Tensor()};
}

int64_t prompt_length(const ModelDef& def, std::span<const PromptEncoder> encoders,
                      std::string_view prompt, const PromptReader& reader) {
  int64_t length = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < encoders.size(); ++i) {
    const TextPart& part = def.text[i];
    const TokenChunks text =
        tokens_for(part, encoders[i], rules_for(part, encoders[i]), prompt, reader);
    const auto tokens = static_cast<int64_t>(text.chunks.size() * text.chunks[0].size());
    if (part.use != TextUse::pooled) length = std::min(length, tokens);
  }
  return length;
}

EncodedPrompt encode_prompt(const ModelDef& def, std::span<const PromptEncoder> encoders,
                            std::string_view prompt, const PromptReader& reader) {
  ATELIER_CHECK(encoders.size() == def.text.size() && !encoders.empty());
  EncodedPrompt result;
  std::vector<at::Tensor> hidden;
  int64_t length = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < encoders.size(); ++i) {
    const TextPart& part = def.text[i];
    const TextEncoding said = encode_part(part, encoders[i], def, prompt, reader, result.warnings);
    if (part.use != TextUse::states) result.pooled = said.pooled;
    if (part.use == TextUse::pooled) continue;
    hidden.push_back(said.hidden);
    length = std::min(length, said.hidden.size(1));
  }
  for (at::Tensor& state : hidden) state = state.narrow(1, 0, length);
  result.context = at::cat(hidden, 2);
  return result;
}

Conditioning condition(const ModelDef& def, const EncodedPrompt& prompt,
                       const PictureMeasures& measures) {
  if (def.vector == VectorKind::none) return {prompt.context, {}};
  if (def.vector == VectorKind::pooled) return {prompt.context, prompt.pooled};
  const at::Tensor values = at::tensor(measures_of(def.vector, measures), at::kFloat);
  const at::Tensor sinusoids = nn::timestep_embedding(values, kSinusoids).view({1, -1});
  return {prompt.context, at::cat({prompt.pooled, sinusoids}, 1)};
}

}  // namespace atelier
