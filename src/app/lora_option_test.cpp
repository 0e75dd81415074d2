// Words of --lora: strengths, colons in names, and what is no strength.
#include "app/lora_option.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;

void expect(std::string_view word, const std::string& file, double strength, double text,
            const std::string& blocks = "") {
  const LoraOption option = parse_lora_option(word);
  EXPECT_EQ(option.file, file) << word;
  EXPECT_EQ(option.strength, strength) << word;
  EXPECT_EQ(option.text_strength, text) << word;
  EXPECT_EQ(option.blocks, blocks) << word;
}

TEST(LoraOption, StrengthsAreTheLastNumbers) {
  expect("a.safetensors", "a.safetensors", 1, 1);
  expect("a.safetensors:0.8", "a.safetensors", 0.8, 0.8);
  expect("a.safetensors:-1:+0.5", "a.safetensors", -1, 0.5);
  expect("a.safetensors:1:0", "a.safetensors", 1, 0);
  expect("C:\\loras\\a.safetensors:2e-1", "C:\\loras\\a.safetensors", 0.2, 0.2);
}

TEST(LoraOption, BlocksStandLast) {
  expect("a.pt:blocks=IN=0,OUT03=0.5", "a.pt", 1, 1, "IN=0,OUT03=0.5");
  expect("a.pt:0.7:blocks=1,0,1", "a.pt", 0.7, 0.7, "1,0,1");
  expect("a.pt:0.7:0:blocks=M00=2", "a.pt", 0.7, 0, "M00=2");
}

TEST(LoraOption, WhatIsAFileAsItStandsIsTaken) {
  const fs::path folder =
      fs::temp_directory_path() / ("atelier_lora_option_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  const std::string odd = (folder / "odd:0.5").string();
  std::ofstream(odd) << "x";
  expect(odd, odd, 1, 1);
  expect(odd + ":0.25", odd, 0.25, 0.25);
  for (const char* wrong : {":abc", ":1:2:3", ":0,5"})
    EXPECT_THROW(parse_lora_option(odd + wrong), Error) << wrong;
  fs::remove_all(folder);
}

TEST(LoraOption, OtherWordsBelongToTheName) {
  expect("a:b.safetensors", "a:b.safetensors", 1, 1);
  expect("a.safetensors:strong", "a.safetensors:strong", 1, 1);
  expect("a.safetensors:1:2:3", "a.safetensors:1", 2, 3);
}

TEST(LoraOption, NamelessAndBoundlessAreErrors) {
  for (const char* word :
       {"", ":1", "a.pt:nan", "a.pt:inf", "a.pt:101", "a.pt:blocks=", "a.pt:blocks=IN=0:0.3"})
    EXPECT_THROW(parse_lora_option(word), Error) << word;
}

}  // namespace
}  // namespace atelier
