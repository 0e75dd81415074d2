// Decoders against the numbers of the gguf package (tools/golden/quant.py), against each other and
// against conversions done one by one.
#include "quant/codec/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "quant/codec/all_blocks.h"
#include "quant/codec/tables.h"

namespace atelier {
namespace {

constexpr Number kNumbers[] = {Number::f32, Number::bf16, Number::f16};

std::vector<std::byte> random_bytes(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

/// The same, but codes of one byte begin with each of the 256 there are.
std::vector<std::byte> random_codes(size_t count, unsigned seed, Encoding encoding) {
  std::vector<std::byte> bytes = random_bytes(count, seed);
  if (encoding_info(encoding).block_bytes == 1)
    for (size_t i = 0; i < std::min<size_t>(count, 256); ++i) bytes[i] = static_cast<std::byte>(i);
  return bytes;
}

std::vector<std::byte> run(DecodeRun decode, std::span<const std::byte> bytes, int64_t elements,
                           Number number) {
  std::vector<std::byte> out(static_cast<size_t>(elements * number_bytes(number)));
  decode(bytes.data(), elements, out.data());
  return out;
}

std::vector<std::byte> decoded(std::span<const std::byte> bytes, Encoding encoding, Number number,
                               const Parallel& parallel = SerialParallel()) {
  const EncodingInfo& info = encoding_info(encoding);
  const size_t blocks = bytes.size() / static_cast<size_t>(info.block_bytes);
  std::vector<std::byte> out(blocks * static_cast<size_t>(info.block_elements) *
                             static_cast<size_t>(number_bytes(number)));
  decode(bytes, encoding, number, out, parallel, "t");
  return out;
}

std::string name_of(Encoding encoding) { return std::string(encoding_info(encoding).name); }

template <class T>
std::vector<T> as(std::span<const std::byte> bytes) {
  std::vector<T> numbers(bytes.size() / sizeof(T));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

class EveryEncoding : public testing::TestWithParam<Encoding> {};

std::vector<Encoding> all_encodings() {
  std::vector<Encoding> all;
  for (const EncodingTraits& row : codec_tables().front().decoders) all.push_back(row.encoding);
  return all;
}

TEST_P(EveryEncoding, GivesTheSameBitsOnEveryInstructionSet) {
  const EncodingInfo& info = encoding_info(GetParam());
  const int64_t elements = info.block_elements > 2
                               ? 40 * info.block_elements
                               : 1003 / info.block_elements * info.block_elements;
  const auto bytes = random_codes(
      static_cast<size_t>(elements / info.block_elements * info.block_bytes), 5, GetParam());
  for (const Number number : kNumbers) {
    const size_t which = static_cast<size_t>(number);
    std::vector<std::byte> plain;
    for (const CodecTable& table : codec_tables())
      for (const EncodingTraits& row : table.decoders) {
        if (row.encoding != GetParam()) continue;
        const auto out = run(row.decode[which], bytes, elements, number);
        if (plain.empty()) plain = out;
        EXPECT_EQ(out, plain) << table.isa << ", number " << which;
      }
  }
}

TEST_P(EveryEncoding, RoundsTheFloatItStandsFor) {
  const EncodingInfo& info = encoding_info(GetParam());
  const auto bytes = random_bytes(static_cast<size_t>(info.block_bytes) * 16, 6);
  const auto exact = as<float>(decoded(bytes, GetParam(), Number::f32));
  const auto bf16 = as<uint16_t>(decoded(bytes, GetParam(), Number::bf16));
  const auto half = as<uint16_t>(decoded(bytes, GetParam(), Number::f16));
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_EQ(bf16[i], float_to_bfloat16(exact[i])) << i;
    EXPECT_EQ(half[i], float_to_half(exact[i])) << i;
  }
}

TEST_P(EveryEncoding, OfASliceIsTheSliceOfTheWholeOnAnyThreads) {
  const EncodingInfo& info = encoding_info(GetParam());
  const size_t blocks = 300'000 / static_cast<size_t>(info.block_elements);
  const size_t block = static_cast<size_t>(info.block_bytes);
  const auto bytes = random_bytes(blocks * block, 7);
  const auto whole = decoded(bytes, GetParam(), Number::bf16, SpawnParallel(3));
  EXPECT_EQ(decoded(bytes, GetParam(), Number::bf16), whole);
  const size_t step = static_cast<size_t>(info.block_elements) * 2;
  for (const size_t first : {size_t{0}, size_t{1}, blocks / 3}) {
    const auto part =
        decoded(std::span(bytes).subspan(first * block, 5 * block), GetParam(), Number::bf16);
    EXPECT_EQ(std::memcmp(part.data(), whole.data() + first * step, part.size()), 0) << first;
  }
}

TEST_P(EveryEncoding, RefusesBytesThatAreNotWholeBlocks) {
  const EncodingInfo& info = encoding_info(GetParam());
  std::vector<std::byte> out(static_cast<size_t>(info.block_elements) * 4);
  const auto bytes = random_bytes(static_cast<size_t>(info.block_bytes) + 1, 8);
  for (const size_t size : {size_t{0}, bytes.size() - 2, bytes.size()}) {
    try {
      decode(std::span(bytes).first(size), GetParam(), Number::f32, out, SerialParallel(), "blk.7");
      ADD_FAILURE() << size << " bytes were taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::malformed);
      EXPECT_NE(std::string(error.what()).find("blk.7"), std::string::npos);
    }
  }
}

// What a thread of a GPU computes.
template <class Block>
void expect_octets_as_decoded() {
  const size_t blocks = 40;
  const auto bytes = random_bytes(blocks * Block::kBytes, 9);
  const auto wanted = as<uint32_t>(decoded(bytes, Block::kEncoding, Number::f32));
  const auto* b = reinterpret_cast<const uint8_t*>(bytes.data());
  for (size_t i = 0; i < wanted.size(); i += 8) {
    float values[8];
    decode_octet<Block>(b + i / Block::kElements * Block::kBytes,
                        static_cast<int>(i % Block::kElements), values);
    for (size_t j = 0; j < 8; ++j)
      ASSERT_EQ(bits_of(values[j]), wanted[i + j]) << name_of(Block::kEncoding) << ' ' << i + j;
  }
}

template <class... Block>
void expect_all_octets(BlockList<Block...>) {
  (expect_octets_as_decoded<Block>(), ...);
}

TEST(Codec, DecodesByEightAsByVectors) { expect_all_octets(AllBlocks()); }

INSTANTIATE_TEST_SUITE_P(All, EveryEncoding, testing::ValuesIn(all_encodings()),
                         [](const auto& instance) { return name_of(instance.param); });

class AgainstGguf : public testing::TestWithParam<const char*> {};

TEST_P(AgainstGguf, EveryNumberIsEqual) {
  const auto path = std::filesystem::path(ATELIER_SOURCE_DIR) / "tests/golden/quant" /
                    (std::string(GetParam()) + ".safetensors");
  const auto file = open_checkpoint(path);
  const Encoding encoding = encoding_from_name(GetParam()).value();
  const auto wanted = as<float>(file->bytes("values"));
  const EncodingInfo& info = encoding_info(encoding);
  ASSERT_EQ(file->bytes("blocks").size() / static_cast<size_t>(info.block_bytes) *
                static_cast<size_t>(info.block_elements),
            wanted.size());
  ASSERT_GE(wanted.size(), 18u * 32);
  for (const CodecTable& table : codec_tables()) {
    const auto row = std::ranges::find(table.decoders, encoding, &EncodingTraits::encoding);
    const auto found =
        as<float>(run(row->decode[static_cast<size_t>(Number::f32)], file->bytes("blocks"),
                      static_cast<int64_t>(wanted.size()), Number::f32));
    for (size_t i = 0; i < found.size(); ++i) {
      if (std::isnan(wanted[i])) {
        EXPECT_EQ(bits_of(found[i]), 0x7fc00000u) << table.isa << ' ' << i;
      } else {
        EXPECT_EQ(found[i], wanted[i]) << table.isa << ' ' << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AgainstGguf,
                         testing::Values("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K",
                                         "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS",
                                         "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
                                         "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
                         [](const auto& instance) { return std::string(instance.param); });

// The gguf package has no decoder for these four; their layout is block_q8_1, block_q8_K,
// block_q1_0 and block_q2_0.
TEST(Codec, DecodesTwoBits) {
  std::vector<std::byte> q2_0(18);
  const uint16_t half = float_to_half(-0.375f);
  std::memcpy(q2_0.data(), &half, 2);
  for (size_t i = 0; i < 16; ++i) q2_0[2 + i] = static_cast<std::byte>(37 * i + 5);
  const auto found = as<float>(decoded(q2_0, Encoding::q2_0, Number::f32));
  ASSERT_EQ(found.size(), 64U);
  for (size_t i = 0; i < 64; ++i) {
    const int code = static_cast<int>((37 * (i / 4) + 5) >> (2 * (i % 4)) & 3) - 1;
    EXPECT_EQ(found[i], -0.375f * static_cast<float>(code)) << i;
  }
}

TEST(Codec, DecodesSigns) {
  std::vector<std::byte> q1_0(18);
  const uint16_t half = float_to_half(0.375f);
  std::memcpy(q1_0.data(), &half, 2);
  for (size_t i = 0; i < 16; ++i) q1_0[2 + i] = static_cast<std::byte>(37 * i + 5);
  const auto found = as<float>(decoded(q1_0, Encoding::q1_0, Number::f32));
  ASSERT_EQ(found.size(), 128U);
  for (size_t i = 0; i < 128; ++i) {
    const bool set = (37 * (i / 8) + 5) >> (i % 8) & 1;
    EXPECT_EQ(found[i], set ? 0.375f : -0.375f) << i;
  }
}

TEST(Codec, DecodesTheBlocksOfProducts) {
  std::vector<std::byte> q8_1(8 * 36), q8_k(292);
  const uint16_t half = float_to_half(0.25f);
  for (size_t block = 0; block < 8; ++block) std::memcpy(q8_1.data() + block * 36, &half, 2);
  const float scale = 0.125f;
  std::memcpy(q8_k.data(), &scale, 4);
  for (size_t i = 0; i < 256; ++i) {
    const auto code = static_cast<std::byte>(i ^ 128);  // -128 to 127
    q8_1[i / 32 * 36 + 4 + i % 32] = code;
    q8_k[4 + i] = code;
  }
  const auto a = as<float>(decoded(q8_1, Encoding::q8_1, Number::f32));
  const auto b = as<float>(decoded(q8_k, Encoding::q8_k, Number::f32));
  ASSERT_EQ(a.size(), 256U);
  ASSERT_EQ(b.size(), 256U);
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(a[i], 0.25f * (static_cast<float>(i) - 128));
    EXPECT_EQ(b[i], 0.125f * (static_cast<float>(i) - 128));
  }
}

// Outputs that no cache keeps go another way.
TEST(Codec, DecodesLargeTensorsAsTheirPieces) {
  constexpr int64_t kPiece = 32 * 31'250;
  for (const Encoding encoding : {Encoding::f8_e4m3, Encoding::q8_0, Encoding::f64}) {
    const EncodingInfo& info = encoding_info(encoding);
    const int64_t elements = 17 * kPiece + 37 * info.block_elements;
    const auto size = static_cast<size_t>(elements / info.block_elements * info.block_bytes);
    std::vector<std::byte> bytes =
        random_bytes(100'003, 10);  // no part of a block, a page or 4 KiB
    bytes.resize(size);
    for (size_t at = 100'003; at < size; at += 100'003)
      std::memcpy(bytes.data() + at, bytes.data(), std::min<size_t>(100'003, size - at));
    std::vector<std::byte> pieces(static_cast<size_t>(elements) * 2), whole(pieces.size());
    const DecodeRun run = encoding_traits(encoding)->decode[static_cast<size_t>(Number::bf16)];
    for (int64_t at = 0; at < elements; at += kPiece)
      run(bytes.data() + at / info.block_elements * info.block_bytes,
          std::min(kPiece, elements - at), pieces.data() + at * 2);
    for (const int threads : {1, 3}) {
      std::ranges::fill(whole, std::byte{0x5a});
      decode(bytes, encoding, Number::bf16, whole, SpawnParallel(threads), "t");
      EXPECT_TRUE(whole == pieces) << info.name << ", threads " << threads;
    }
  }
}

TEST(Codec, SaysWhatItCannotDecode) {
  std::vector<std::byte> out(4), bytes(8);
  EXPECT_FALSE(decodable(Encoding::c64));
  try {
    decode(bytes, Encoding::c64, Number::f32, out, SerialParallel(), "spectrum");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("spectrum"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("C64"), std::string::npos);
  }
}

}  // namespace
}  // namespace atelier
