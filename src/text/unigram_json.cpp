// tokenizer.json: the vocabulary, the added tokens, and checks that text is treated as T5's is.
#include <fmt/format.h>

#include <utility>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/unigram_error.h"
#include "text/unigram_files.h"

namespace atelier {
namespace {

/// The member `name` of an object, or null.
const Json& member(const Json& object, std::string_view name) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(std::string(name));
  return found == object.end() ? kNull : *found;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

std::string decode_base64(std::string_view text, std::string_view subject) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t digit = kDigits.find(c);
    if (digit == kDigits.npos)
      refuse_vocabulary(subject, "precompiled_charsmap in base64", "another character");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xFF);
  }
  return bytes;
}

/// The members of a "Sequence", or the one component that stands in its place.
std::vector<Json> components(const Json& value, std::string_view list) {
  if (value.is_null()) return {};
  const Json& members = member(value, list);
  if (text_of(member(value, "type")) != "Sequence" || !members.is_array())
    return std::vector<Json>(1, value);
  return std::vector<Json>(members.begin(), members.end());
}

void read_normalizer(UnigramVocabulary& vocabulary, const Json& value, std::string_view subject) {
  vocabulary.nmt_nfkc = false;
  for (const Json& part : components(value, "normalizers")) {
    const std::string type = text_of(member(part, "type"));
    if (type == "Precompiled")
      vocabulary.charsmap = decode_base64(text_of(member(part, "precompiled_charsmap")), subject);
    else if (type == "NFKC" || type == "Nmt")
      vocabulary.nmt_nfkc = true;
    else if (type == "Replace" && text_of(member(member(part, "pattern"), "Regex")) == " {2,}")
      continue;  // as all blanks are collapsed
    else if (type != "Strip")
      refuse_kind(subject, "a normalizer like T5's", shown(part));
  }
}

void check_pre_tokenizer(const Json& value, std::string_view subject) {
  for (const Json& part : components(value, "pretokenizers")) {
    const std::string type = text_of(member(part, "type"));
    const Json& scheme = member(part, "prepend_scheme");
    const bool prepends = scheme.is_null() ? member(part, "add_prefix_space") != false
                                           : scheme == "always" || scheme == "first";
    const bool metaspace =
        type == "Metaspace" && text_of(member(part, "replacement")) == "\u2581" && prepends;
    if (type != "WhitespaceSplit" && !metaspace)
      refuse_kind(subject, "a pre-tokenizer like T5's", shown(part));
  }
}

void read_pieces(UnigramVocabulary& vocabulary, const Json& model, std::string_view subject) {
  const Json& rows = member(model, "vocab");
  if (!rows.is_array() || rows.empty() || rows.size() > kMaxPieces)
    refuse_vocabulary(subject, fmt::format("model.vocab with 1 to {} pieces", kMaxPieces),
                      rows.is_array() ? fmt::to_string(rows.size()) : shown(rows));
  const bool bytes = member(model, "byte_fallback") == true;
  for (const Json& row : rows) {
    if (!row.is_array() || row.size() != 2 || !row[0].is_string() || !row[1].is_number())
      refuse_vocabulary(subject, "pieces as [text, score]", shown(row));
    UnigramPiece piece{row[0].get<std::string>(), row[1].get<double>(), PieceKind::normal};
    if (bytes && piece.text.size() == 6 && piece.text.starts_with("<0x"))
      piece.kind = PieceKind::byte;
    vocabulary.pieces.push_back(std::move(piece));
  }
  const Json& unknown = member(model, "unk_id");
  if (!unknown.is_number_unsigned() || unknown.get<uint64_t>() >= rows.size())
    refuse_vocabulary(subject, fmt::format("model.unk_id below {}", rows.size()), shown(unknown));
  vocabulary.pieces[unknown.get<size_t>()].kind = PieceKind::unknown;
}

void read_added_tokens(UnigramVocabulary& vocabulary, const Json& tokens,
                       std::string_view subject) {
  if (tokens.is_null()) return;
  if (!tokens.is_array()) refuse_vocabulary(subject, "added_tokens as a list", shown(tokens));
  std::vector<UnigramPiece>& pieces = vocabulary.pieces;
  for (const Json& token : tokens) {
    const Json& id = member(token, "id");
    const std::string text = text_of(member(token, "content"));
    if (text.empty() || !id.is_number_unsigned() || id.get<uint64_t>() > pieces.size())
      refuse_vocabulary(subject, fmt::format("added tokens with ids up to {}", pieces.size()),
                        shown(token));
    const auto place = id.get<size_t>();
    if (place == pieces.size()) pieces.push_back({text, 0, PieceKind::control});
    if (pieces[place].text != text)
      refuse_vocabulary(subject, fmt::format("added token {} to be piece {}", place, place),
                        shown(token));
    const bool special = member(token, "special") == true;
    if (pieces[place].kind == PieceKind::normal)
      pieces[place].kind = special ? PieceKind::control : PieceKind::user_defined;
  }
  if (pieces.size() > kMaxPieces)
    refuse_vocabulary(subject, fmt::format("at most {} pieces", kMaxPieces),
                      fmt::to_string(pieces.size()));
}

}  // namespace

UnigramVocabulary read_unigram_json(std::string_view text, std::string_view subject) try {
  const Json file = parse_json(text, subject);
  const Json& model = member(file, "model");
  if (text_of(member(model, "type")) != "Unigram")
    refuse_kind(subject, "model.type Unigram", shown(member(model, "type")));
  UnigramVocabulary vocabulary;
  read_pieces(vocabulary, model, subject);
  read_added_tokens(vocabulary, member(file, "added_tokens"), subject);
  read_normalizer(vocabulary, member(file, "normalizer"), subject);
  check_pre_tokenizer(member(file, "pre_tokenizer"), subject);
  return vocabulary;
} catch (const Error& error) {
  if (!error.facts().hint.empty()) throw;
  refuse_vocabulary(subject, error.facts().expected, error.facts().found, error.code());
}

UnigramVocabulary read_unigram(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != text.npos && text[first] == '{') return read_unigram_json(text, path.string());
  // A message begins with its first field, of pieces.
  if (!text.empty() && text[0] != '\n')
    refuse_vocabulary(path.string(), "spiece.model or tokenizer.json of a T5",
                      "another kind of file");
  return read_spiece_model(file.bytes(), path.string());
}

}  // namespace atelier
