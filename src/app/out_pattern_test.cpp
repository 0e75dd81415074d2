// Output names: filling, escapes, hostile parts, free names.
#include "app/out_pattern.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace atelier {
namespace {

OutFacts facts() {
  OutFacts f;
  f.model = "sd15";
  f.prompt = "a (red:1.2) circle, \"left\"";
  f.seed = 42;
  f.index = 7;
  f.width = 512;
  f.height = 768;
  f.steps = 20;
  f.cfg = 7.5;
  f.sampler = "euler";
  f.scheduler = "karras";
  return f;
}

std::string error_of(std::string_view pattern) {
  try {
    check_out_pattern(pattern, "--out");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

TEST(OutPattern, FillsEveryPlaceholder) {
  EXPECT_EQ(fill_out_pattern("o/{model}_{seed}_{index}.png", facts()), "o/sd15_42_0007.png");
  EXPECT_EQ(fill_out_pattern("{width}x{height}-{steps}-{cfg}-{sampler}-{scheduler}.webp", facts()),
            "512x768-20-7.5-euler-karras.webp");
  EXPECT_EQ(fill_out_pattern("{prompt}.png", facts()), "a_red_1_2_circle_left.png");
  for (const Placeholder& p : placeholders()) {
    const std::string name = "{" + std::string(p.name) + "}";
    EXPECT_NE(fill_out_pattern(name, facts()).string(), "") << name;
    EXPECT_EQ(error_of(name + ".png"), "") << name;
  }
}

TEST(OutPattern, KeepsDoubledBraces) {
  EXPECT_EQ(fill_out_pattern("{{{seed}}}.png", facts()), "{42}.png");
}

TEST(OutPattern, NeverLetsAPartClimbOutOfItsFolder) {
  OutFacts f = facts();
  f.prompt = "../../etc/passwd";
  f.model = "../evil";
  EXPECT_EQ(fill_out_pattern("o/{prompt}.png", f), "o/etc_passwd.png");
  EXPECT_EQ(fill_out_pattern("o/{model}.png", f), "o/_.._evil.png");
  f.prompt = "\xE7\x8C\xAB \xE7\x8C\xAB";
  EXPECT_EQ(fill_out_pattern("{prompt}", f), "\xE7\x8C\xAB_\xE7\x8C\xAB");
  f.prompt = std::string(100'000, 'a');
  EXPECT_LE(fill_out_pattern("{prompt}", f).string().size(), 64U);
  f.prompt = "( , )";
  EXPECT_EQ(fill_out_pattern("{prompt}", f), "untitled");
}

TEST(OutPattern, RefusesWhatItCannotMean) {
  EXPECT_NE(error_of("{sed}.png").find("Did you mean '{seed}'?"), std::string::npos);
  EXPECT_NE(error_of("{zzzzzzzzz}.png").find("Known are"), std::string::npos);
  EXPECT_NE(error_of("{seed.png").find("'{'"), std::string::npos);
  EXPECT_NE(error_of("seed}.png").find("'}'"), std::string::npos);
  EXPECT_NE(error_of("a.pgn").find("Did you mean '.png'?"), std::string::npos);
  EXPECT_NE(error_of("picture").find("no ending"), std::string::npos);
  EXPECT_NE(error_of("folder/").find("folder"), std::string::npos);
  EXPECT_NE(error_of("").find("folder"), std::string::npos);
  EXPECT_EQ(error_of("A.PNG"), "");
}

TEST(OutPattern, TakesTheNextFreeName) {
  std::set<std::filesystem::path> taken = {"o/a.png", "o/a_2.png"};
  const auto attempt = [&](const std::filesystem::path& name) { return taken.insert(name).second; };
  EXPECT_EQ(first_free("o/a.png", attempt), "o/a_3.png");
  EXPECT_EQ(first_free("o/b.png", attempt), "o/b.png");
}

}  // namespace
}  // namespace atelier
