// T5's vocabulary in the metadata of a GGUF file, and metadata that lies.
#include "pipeline/tokenizers.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "base/error.h"

namespace atelier {
namespace {

/// Metadata values whose bytes it holds.
class Values {
 public:
  void text(const std::string& key, const std::string& value) {
    put(key, GgufType::text, number<uint64_t>(value.size()) + value);
  }
  template <class T>
  void array(const std::string& key, GgufType type, const std::vector<T>& values) {
    std::string bytes = number(static_cast<uint32_t>(type)) + number<uint64_t>(values.size());
    for (const T& value : values) {
      if constexpr (std::is_same_v<T, std::string>)
        bytes += number<uint64_t>(value.size()) + value;
      else
        bytes += number(value);
    }
    put(key, GgufType::array, std::move(bytes));
  }
  void drop(const std::string& key) { values_.erase("tokenizer.ggml." + key); }
  const GgufMetadata& all() const { return values_; }

 private:
  template <class T>
  static std::string number(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  void put(const std::string& key, GgufType type, std::string bytes) {
    drop(key);
    const auto& kept = kept_.emplace_back(std::make_unique<std::string>(std::move(bytes)));
    values_.emplace("tokenizer.ggml." + key, GgufValue(type, std::as_bytes(std::span(*kept))));
  }
  std::vector<std::unique_ptr<std::string>> kept_;
  GgufMetadata values_;
};

Values t5() {
  Values values;
  values.text("model", "t5");
  values.array<std::string>("tokens", GgufType::text, {"<pad>", "</s>", "<unk>", "\u2581a"});
  values.array<float>("scores", GgufType::f32, {0, 0, 0, -2.5F});
  values.array<int32_t>("token_type", GgufType::i32, {3, 3, 2, 1});
  return values;
}

TEST(GgufVocabulary, HasPiecesScoresAndKinds) {
  Values values = t5();
  values.array<uint8_t>("precompiled_charsmap", GgufType::u8, {0, 200, 7});
  const auto vocabulary = gguf_vocabulary(values.all(), "t5.gguf");
  ASSERT_TRUE(vocabulary);
  ASSERT_EQ(vocabulary->pieces.size(), 4U);
  EXPECT_EQ(vocabulary->pieces[3].text, "\u2581a");
  EXPECT_EQ(vocabulary->pieces[3].score, -2.5);
  EXPECT_EQ(vocabulary->pieces[2].kind, PieceKind::unknown);
  EXPECT_EQ(vocabulary->charsmap, std::string("\0\xC8\x07", 3));
}

TEST(GgufVocabulary, OfAnotherKindIsNone) {
  EXPECT_FALSE(gguf_vocabulary({}, "x"));
  Values values = t5();
  values.text("model", "llama");
  EXPECT_FALSE(gguf_vocabulary(values.all(), "x"));
  values = t5();
  values.drop("tokens");
  EXPECT_FALSE(gguf_vocabulary(values.all(), "x"));
}

TEST(GgufVocabulary, ThatContradictsItselfIsRefused) {
  const auto refused = [](auto&& change) {
    Values values = t5();
    change(values);
    EXPECT_THROW(gguf_vocabulary(values.all(), "x"), Error);
  };
  refused([](Values& v) { v.drop("scores"); });
  refused([](Values& v) { v.drop("token_type"); });
  refused([](Values& v) { v.array<float>("scores", GgufType::f32, {0, 0, 0}); });
  refused([](Values& v) { v.array<std::string>("tokens", GgufType::text, {}); });
  refused([](Values& v) { v.array<int32_t>("tokens", GgufType::i32, {1, 2, 3, 4}); });
  refused([](Values& v) { v.array<int32_t>("token_type", GgufType::i32, {3, 3, 2, 7}); });
  refused([](Values& v) { v.array<int32_t>("token_type", GgufType::i32, {3, 3, 2, 0}); });
  refused([](Values& v) { v.array<float>("token_type", GgufType::f32, {3, 3, 2, 1}); });
}

}  // namespace
}  // namespace atelier
