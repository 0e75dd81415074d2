// Looking for T5's vocabulary in the order of the header's list.
#include "pipeline/tokenizers.h"

#include <fmt/format.h>

#include <array>

#include "base/error.h"
#include "base/log.h"
#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "formats/merged_source.h"
#include "formats/model_folder.h"
#include "text/t5_tokenizer.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

constexpr std::string_view kT5 = "t5xxl";
constexpr std::array<std::string_view, 2> kNames = {"spiece.model", "tokenizer.json"};
constexpr std::string_view kEither = "spiece.model or tokenizer.json of a T5";
constexpr std::string_view kWhichOne =
    "spiece.model or tokenizer.json of T5 v1.1 XXL (tokenizer_2 of FLUX.1)";

/// A vocabulary, and where it was found.
struct Vocabulary {
  UnigramVocabulary pieces;
  std::string label;
};

[[noreturn]] void refuse(std::string_view subject, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed, {.subject = std::string(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found)});
}

/// The file that holds the tensors under `prefix`, if it is one.
const Checkpoint* file_of(const TensorSource& source, std::string_view prefix) {
  if (const auto* merged = dynamic_cast<const MergedSource*>(&source)) {
    for (const SourcePart& part : merged->parts())
      if (part.prefix == prefix) return dynamic_cast<const Checkpoint*>(part.source.get());
    return nullptr;
  }
  return dynamic_cast<const Checkpoint*>(&source);
}

/// What the encoder's own file says of its tokenizer.
std::optional<Vocabulary> carried(const FoundPart& encoder) {
  const std::string label = encoder.source->label();
  if (const Checkpoint* file = file_of(*encoder.source, encoder.place.prefix))
    if (auto vocabulary = gguf_vocabulary(file->gguf(), label))
      return Vocabulary{std::move(*vocabulary), label};
  const std::string name = encoder.place.prefix + "spiece_model";
  const auto tensor = encoder.source->tensors().find(name);
  if (tensor == encoder.source->tensors().end()) return {};
  const std::string subject = label + ": " + name;
  return Vocabulary{read_spiece_model(encoder.source->bytes(name), subject), subject};
}

/// Folders in which the tokenizer of a file, or of a folder of components, may lie.
std::vector<fs::path> folders_by(const TensorSource& source) {
  const fs::path path(source.label());
  std::error_code none;
  if (fs::is_directory(path, none)) return {path / "tokenizer_2", path / "tokenizer_3", path};
  const fs::path folder = path.parent_path(), above = folder.parent_path();
  return {above / "tokenizer_2", folder / "tokenizer_2", above / "tokenizer_3",
          folder / "tokenizer_3", folder};
}

/// The vocabulary in `folder`, passing over files that hold one of another kind.
std::optional<Vocabulary> lies_in(const fs::path& folder) {
  std::error_code none;
  for (const std::string_view name : kNames) {
    const fs::path file = folder / name;
    if (!fs::is_regular_file(file, none)) continue;
    try {
      Vocabulary vocabulary{read_unigram(file), file.string()};
      log::debug("T5's tokenizer is {}", vocabulary.label);
      return vocabulary;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      log::debug("not T5's tokenizer: {}", error.what());
    }
  }
  return {};
}

/// Reads a file that must be a tokenizer; a checkpoint or a picture is told for what it is.
Vocabulary read_named(const fs::path& path) {
  try {
    return {read_unigram(path), path.string()};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::unsupported && error.code() != ErrorCode::malformed) throw;
    const ForeignKind* foreign = foreign_kind(MappedFile::open(path).bytes());
    if (foreign && !foreign->hint.ends_with("--t5-tokenizer"))
      throw Error(ErrorCode::mismatch, {.subject = path.string(),
                                        .expected = std::string(kEither),
                                        .found = std::string(foreign->name)});
    std::shared_ptr<const TensorSource> source;
    try {
      source = open_source(path);
    } catch (const Error&) {
    }
    if (!source) throw;
    throw wrong_kind(source, std::string(kEither));
  }
}

Vocabulary named(const fs::path& path) {
  std::error_code none;
  if (!fs::is_directory(path, none)) return read_named(path);
  if (auto vocabulary = lies_in(path)) return *vocabulary;
  throw Error(ErrorCode::not_found,
              {.subject = path.string(), .expected = std::string(kEither), .found = "neither"});
}

Vocabulary find_vocabulary(const ModelParts& parts, const FoundPart& encoder, const fs::path& t5) {
  if (!t5.empty()) return named(t5);
  if (auto vocabulary = carried(encoder)) return *vocabulary;
  std::vector<fs::path> folders = folders_by(*encoder.source);
  for (const fs::path& folder : folders_by(*parts.denoiser.source)) folders.push_back(folder);
  const fs::path data = ClipTokenizer::default_vocabulary().parent_path().parent_path();
  folders.push_back(data / "t5");
  for (const fs::path& folder : folders)
    if (auto vocabulary = lies_in(folder)) return *vocabulary;
  throw Error(
      ErrorCode::not_found,
      {.subject = encoder.source->label(),
       .expected = "no tokenizer was found for this T5 text encoder",
       .hint = fmt::format("Put {} into its folder, or name it with --t5-tokenizer", kWhichOne)});
}

TokenizerPtr open_t5(const ModelParts& parts, const FoundPart& encoder, const fs::path& t5) {
  const auto [vocabulary, label] = find_vocabulary(parts, encoder, t5);
  Residency none;
  BindReport report;
  const Shape table =
      open_scope(encoder.source, encoder.place, none, report, {}).shape("shared.weight");
  const auto rows = table.empty() ? size_t{0} : static_cast<size_t>(table[0]);
  if (vocabulary.pieces.size() > rows)
    throw Error(ErrorCode::mismatch,
                {.subject = encoder.source->label(),
                 .expected = fmt::format("a tokenizer of at most {} pieces", rows),
                 .found = fmt::format("one of {}, {}", vocabulary.pieces.size(), label),
                 .hint = fmt::format("It belongs to another model; take {}", kWhichOne)});
  return std::make_shared<T5Tokenizer>(vocabulary, label);
}

/// Throws unless the encoder has a row for every token of CLIP's vocabulary.
void check_clip(const TextPart& part, const FoundPart& encoder) {
  constexpr int64_t kTokens = 49408;
  constexpr const char* kTable = "text_model.embeddings.token_embedding.weight";
  Residency none;
  BindReport report;
  const Shape table = open_scope(encoder.source, encoder.place, none, report, {}).shape(kTable);
  if (!table.empty() && table[0] < kTokens)
    throw Error(ErrorCode::mismatch,
                {.subject = encoder.source->label(),
                 .expected = fmt::format("at least {} rows of the token_embedding of {}, one for "
                                         "each token of CLIP's vocabulary",
                                         kTokens, part.encoder->name),
                 .found = std::to_string(table[0])});
}

}  // namespace

std::optional<UnigramVocabulary> gguf_vocabulary(const GgufMetadata& metadata,
                                                 std::string_view subject) {
  const auto value = [&](std::string_view name) {
    const auto found = metadata.find(fmt::format("tokenizer.ggml.{}", name));
    return found == metadata.end() ? nullptr : &found->second;
  };
  const GgufValue *model = value("model"), *tokens = value("tokens"), *scores = value("scores");
  if (!model || model->text() != "t5" || !tokens) return {};
  const size_t count = tokens->count();
  if (count == 0 || count > kMaxPieces)
    refuse(subject, fmt::format("1 to {} pieces in tokenizer.ggml.tokens", kMaxPieces),
           std::to_string(count));
  const GgufValue *kinds = value("token_type"), *charsmap = value("precompiled_charsmap");
  const std::vector<std::string_view> texts = tokens->texts();
  const std::vector<double> likely = scores ? scores->numbers() : std::vector<double>();
  const std::vector<int64_t> types = kinds ? kinds->integers() : std::vector<int64_t>();
  if (texts.size() != count || likely.size() != count || types.size() != count)
    refuse(subject, fmt::format("{} texts, scores and types of pieces", count),
           fmt::format("{}, {} and {}", texts.size(), likely.size(), types.size()));
  UnigramVocabulary vocabulary;
  for (size_t i = 0; i < count; ++i) {
    if (types[i] < 1 || types[i] > static_cast<int64_t>(PieceKind::byte))
      refuse(subject, "types of pieces from 1 to 6", std::to_string(types[i]));
    vocabulary.pieces.push_back(
        {std::string(texts[i]), likely[i], static_cast<PieceKind>(types[i])});
  }
  if (charsmap)
    for (const int64_t byte : charsmap->integers())
      vocabulary.charsmap += static_cast<char>(static_cast<unsigned char>(byte));
  return vocabulary;
}

std::vector<TokenizerPtr> open_tokenizers(const ModelParts& parts, const fs::path& t5) {
  TokenizerPtr clip;
  std::vector<TokenizerPtr> result;
  for (size_t i = 0; i < parts.text.size(); ++i) {
    if (parts.def->text[i].encoder->name == kT5) {
      result.push_back(open_t5(parts, *parts.text[i], t5));
      continue;
    }
    check_clip(parts.def->text[i], *parts.text[i]);
    if (!clip) clip = std::make_shared<ClipTokenizer>();
    result.push_back(clip);
  }
  return result;
}

}  // namespace atelier
