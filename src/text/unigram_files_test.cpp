// The readers of spiece.model and tokenizer.json: every field that can lie.
#include "text/unigram_files.h"

#include <gtest/gtest.h>

#include <bit>

#include "base/error.h"
#include "base/json.h"

namespace atelier {
namespace {

const std::string kGolden = ATELIER_SOURCE_DIR "/tests/golden/t5/";

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string part(uint64_t field, const std::string& bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string score(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return varint(2 << 3 | 5) + std::string(reinterpret_cast<const char*>(&bits), 4);
}
std::string piece(const std::string& text, float value, uint64_t kind = 1) {
  return part(1, part(1, text) + score(value) + (kind == 1 ? "" : number(3, kind)));
}

UnigramVocabulary read(const std::string& bytes) {
  return read_spiece_model(std::as_bytes(std::span(bytes)), "it");
}

/// The message of refusing, "" if `action` returns.
template <class Action>
std::string refusal(ErrorCode code, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_FALSE(error.facts().subject.empty() || error.facts().hint.empty()) << error.what();
    return error.what();
  }
  return "";
}
std::string refused(const std::string& bytes, ErrorCode code = ErrorCode::malformed) {
  return refusal(code, [&] { read(bytes); });
}
std::string unsupported(const std::string& bytes) { return refused(bytes, ErrorCode::unsupported); }

TEST(SpieceModel, ReadsPiecesSettingsAndTheMap) {
  const UnigramVocabulary v =
      read(part(2, number(3, 1) + number(4, 700)) + piece("<unk>", 0, 2) + piece("ab", -1.5f) +
           piece("<s>", 0, 3) + number(9, 5) + part(3, part(1, "name") + part(2, "map")));
  ASSERT_EQ(v.pieces.size(), 3u);
  EXPECT_EQ(v.pieces[0].kind, PieceKind::unknown);
  EXPECT_EQ(v.pieces[1].text, "ab");
  EXPECT_EQ(v.pieces[1].score, -1.5);
  EXPECT_EQ(v.pieces[1].kind, PieceKind::normal);
  EXPECT_EQ(v.pieces[2].kind, PieceKind::control);
  EXPECT_EQ(v.charsmap, "map");
  EXPECT_FALSE(v.nmt_nfkc);
  EXPECT_FALSE(read(piece("a", 0)).nmt_nfkc);  // no map: text stays as it is
}

TEST(SpieceModel, RefusesBytesThatAreNoMessage) {
  const std::string good = piece("a", -1) + piece("b", -2);
  EXPECT_EQ(refused(good), "");
  EXPECT_NE(refused(""), "");
  EXPECT_NE(refused("PK\x03\x04"), "");
  EXPECT_NE(refused(good + std::string(1, '\0')).find("field 0"), std::string::npos);
  EXPECT_NE(refused(good + varint(1 << 3 | 3)).find("type 3"), std::string::npos);
  EXPECT_NE(refused(good + std::string(11, '\xFF')).find("64 bits"), std::string::npos);
  EXPECT_NE(refused(varint(1 << 3 | 2) + std::string(9, '\xFF') + '\x01'), "");
  EXPECT_NE(refused(number(1, 5)).find("wire type 2"), std::string::npos);
  EXPECT_NE(refused(part(1, number(1, 5))).find("piece of wire type"), std::string::npos);
  EXPECT_NE(refused(part(1, number(2, 5))).find("score"), std::string::npos);
  EXPECT_NE(refused(part(1, part(3, "x"))).find("type"), std::string::npos);
  EXPECT_NE(refused(part(1, part(1, "a") + number(3, 0))).find("1 to 6"), std::string::npos);
  EXPECT_NE(refused(part(1, part(1, "a") + number(3, 7))).find("1 to 6"), std::string::npos);
  EXPECT_NE(refused(good + part(3, number(2, 1))).find("charsmap"), std::string::npos);
  for (size_t cut = 1; cut < good.size(); ++cut)
    EXPECT_EQ(refused(good.substr(0, cut)).empty(), cut == good.size() / 2) << cut;
}

TEST(SpieceModel, RefusesAnotherKindOfVocabulary) {
  const std::string good = piece("a", -1);
  EXPECT_NE(unsupported(good + part(2, number(3, 2))).find("model_type"), std::string::npos);
  EXPECT_NE(unsupported(good + part(2, number(22, 0))).find("split_by"), std::string::npos);
  EXPECT_NE(unsupported(good + part(2, number(24, 1))).find("suffix"), std::string::npos);
  EXPECT_NE(unsupported(good + part(3, number(3, 0))).find("dummy_prefix"), std::string::npos);
  EXPECT_NE(unsupported(good + part(3, number(4, 0))).find("remove_extra"), std::string::npos);
  EXPECT_NE(unsupported(good + part(3, number(5, 0))).find("escape"), std::string::npos);
  EXPECT_EQ(unsupported(good + part(2, number(22, 1)) + part(3, number(3, 1))), "");
}

Json document() {
  return parse_json(R"({"added_tokens": [{"id": 0, "content": "</s>", "special": true},
      {"id": 3, "content": "<x>", "special": true}, {"id": 2, "content": "b", "special": false}],
      "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": "YWJjZA=="},
        {"type": "Strip", "strip_left": false, "strip_right": true},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
      "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": true},
      "model": {"type": "Unigram", "unk_id": 1,
                "vocab": [["</s>", 0.0], ["<unk>", 0], ["b", -2.5]]}})",
                    "document");
}

UnigramVocabulary read(const Json& json) { return read_unigram_json(json.dump(), "it"); }

TEST(UnigramJson, ReadsPiecesAddedTokensAndTheMap) {
  const UnigramVocabulary v = read(document());
  ASSERT_EQ(v.pieces.size(), 4u);
  EXPECT_EQ(v.pieces[0].kind, PieceKind::control);
  EXPECT_EQ(v.pieces[1].kind, PieceKind::unknown);
  EXPECT_EQ(v.pieces[2].kind, PieceKind::user_defined);
  EXPECT_EQ(v.pieces[2].score, -2.5);
  EXPECT_EQ(v.pieces[3].text, "<x>");
  EXPECT_EQ(v.pieces[3].kind, PieceKind::control);
  EXPECT_EQ(v.charsmap, "abcd");
  EXPECT_FALSE(v.nmt_nfkc);
  Json other = document();
  other["normalizer"] = {{"type", "NFKC"}};
  other.erase("added_tokens");
  EXPECT_TRUE(read(other).nmt_nfkc);
  other["normalizer"] = nullptr;
  EXPECT_FALSE(read(other).nmt_nfkc);
  other["model"]["byte_fallback"] = true;
  other["model"]["vocab"].push_back({"<0x0A>", -5});
  EXPECT_EQ(read(other).pieces[3].kind, PieceKind::byte);
}

TEST(UnigramJson, RefusesWhatContradictsItself) {
  const std::pair<const char*, Json> lies[] = {
      {"/model/vocab", nullptr},
      {"/model/vocab", Json::array()},
      {"/model/vocab/1", "x"},
      {"/model/vocab/1", Json::array({"x"})},
      {"/model/vocab/1", Json::array({"x", "y"})},
      {"/model/vocab/1", Json::array({1, 2})},
      {"/model/unk_id", nullptr},
      {"/model/unk_id", -1},
      {"/model/unk_id", 3},
      {"/model/unk_id", 1.5},
      {"/added_tokens", "x"},
      {"/added_tokens/0", 7},
      {"/added_tokens/0/id", 17},
      {"/added_tokens/0/id", -1},
      {"/added_tokens/0/id", 1},
      {"/added_tokens/0/content", ""},
      {"/added_tokens/1/id", 5000000000},
      {"/normalizer/normalizers/0/precompiled_charsmap", "Y*"}};
  for (const auto& [place, value] : lies) {
    Json json = document();
    json[Json::json_pointer(place)] = value;
    EXPECT_NE(refusal(ErrorCode::malformed, [&] { read(json); }), "") << place << value;
  }
  const std::string text = document().dump();
  EXPECT_NE(refusal(ErrorCode::malformed,
                    [&] { read_unigram_json(text.substr(0, text.size() / 2), "it"); }),
            "");
}

TEST(UnigramJson, RefusesAnotherKindOfTokenizer) {
  const std::pair<const char*, Json> others[] = {
      {"/model/type", "BPE"},
      {"/model", 1},
      {"/normalizer", {{"type", "Lowercase"}}},
      {"/normalizer/normalizers/2/pattern", {{"String", "a"}}},
      {"/pre_tokenizer/type", "ByteLevel"},
      {"/pre_tokenizer/add_prefix_space", false},
      {"/pre_tokenizer/replacement", "_"},
      {"/pre_tokenizer/prepend_scheme", "never"}};
  for (const auto& [place, value] : others) {
    Json json = document();
    json[Json::json_pointer(place)] = value;
    EXPECT_NE(refusal(ErrorCode::unsupported, [&] { read(json); }), "") << place << value;
  }
}

TEST(UnigramFiles, AreToldApartByTheirFirstCharacter) {
  const UnigramVocabulary spiece = read_unigram(kGolden + "spiece.model");
  const UnigramVocabulary json = read_unigram(kGolden + "tokenizer.json");
  ASSERT_EQ(json.pieces.size(), spiece.pieces.size() + 4);
  for (size_t i = 0; i < spiece.pieces.size(); ++i) {
    EXPECT_EQ(json.pieces[i].text, spiece.pieces[i].text);
    EXPECT_EQ(json.pieces[i].score, spiece.pieces[i].score);
    EXPECT_EQ(json.pieces[i].kind, spiece.pieces[i].kind) << i;
  }
  EXPECT_EQ(json.charsmap, spiece.charsmap);
  EXPECT_THROW(read_unigram(kGolden + "nowhere"), Error);
}

}  // namespace
}  // namespace atelier
