// The few fields of sentencepiece's ModelProto that encoding needs.
#include <fmt/format.h>

#include <bit>
#include <utility>

#include "text/unigram_error.h"
#include "text/unigram_files.h"
#include "text/wire_reader.h"

namespace atelier {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr uint64_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
constexpr uint64_t kPieceText = 1, kPieceScore = 2, kPieceKind = 3;
constexpr uint64_t kCharsmap = 2;

/// A setting of a spec that must have the value T5's vocabulary has. A file that leaves it out
/// means that value.
struct Setting {
  uint64_t number;
  std::string_view name;
  uint64_t value;
};
constexpr Setting kTrainer[] = {{3, "model_type (1: unigram)", 1},
                                {22, "split_by_whitespace", 1},
                                {24, "treat_whitespace_as_suffix", 0}};
constexpr Setting kNormalizer[] = {
    {3, "add_dummy_prefix", 1}, {4, "remove_extra_whitespaces", 1}, {5, "escape_whitespaces", 1}};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

UnigramPiece read_piece(std::span<const std::byte> message, std::string_view subject) {
  UnigramPiece piece;
  WireReader reader(message, subject);
  while (const auto field = reader.next()) {
    if (field->number == kPieceText) {
      reader.expect(*field, 2, "piece");
      piece.text = text_of(field->bytes);
    } else if (field->number == kPieceScore) {
      reader.expect(*field, 5, "score");
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    } else if (field->number == kPieceKind) {
      reader.expect(*field, 0, "type");
      if (field->value < 1 || field->value > 6)
        refuse_vocabulary(subject, "types of pieces from 1 to 6", std::to_string(field->value));
      piece.kind = static_cast<PieceKind>(field->value);
    }
  }
  return piece;
}

void check_settings(const WireReader& reader, const WireField& field,
                    std::span<const Setting> settings, std::string_view subject) {
  for (const Setting& setting : settings) {
    if (setting.number != field.number) continue;
    reader.expect(field, 0, setting.name);
    if (field.value != setting.value)
      refuse_kind(subject, fmt::format("{} = {}", setting.name, setting.value),
                  std::to_string(field.value));
  }
}

}  // namespace

UnigramVocabulary read_spiece_model(std::span<const std::byte> file, std::string_view subject) {
  UnigramVocabulary vocabulary{.pieces = {}, .charsmap = {}, .nmt_nfkc = false};
  WireReader model(file, subject);
  while (const auto field = model.next()) {
    if (field->number < kPieces || field->number > kNormalizerSpec) continue;
    model.expect(*field, 2, "a message");
    if (field->number == kPieces) {
      if (vocabulary.pieces.size() == kMaxPieces)
        refuse_vocabulary(subject, fmt::format("at most {} pieces", kMaxPieces), "more");
      vocabulary.pieces.push_back(read_piece(field->bytes, subject));
      continue;
    }
    const bool trainer = field->number == kTrainerSpec;
    WireReader spec(field->bytes, subject);
    while (const auto inner = spec.next()) {
      check_settings(spec, *inner, std::span<const Setting>(trainer ? kTrainer : kNormalizer),
                     subject);
      if (trainer || inner->number != kCharsmap) continue;
      spec.expect(*inner, 2, "precompiled_charsmap");
      vocabulary.charsmap = text_of(inner->bytes);
    }
  }
  if (vocabulary.pieces.empty()) refuse_vocabulary(subject, "pieces of a vocabulary", "none");
  return vocabulary;
}

}  // namespace atelier
