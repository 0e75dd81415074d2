// Names of types.
#include "pipeline/quant_types.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "formats/test_files.h"

namespace atelier {
namespace {

using test::error_of;

TEST(QuantTypes, HaveTheNamesOthersGiveThem) {
  EXPECT_EQ(quant_type("q4_k").name, "Q4_K_M");
  EXPECT_EQ(quant_type("Q5_K").name, "Q5_K_M");
  EXPECT_EQ(quant_type("Q3_K").name, "Q3_K_M");
  EXPECT_EQ(quant_type("FP8").name, "fp8");
  EXPECT_EQ(quant_type("F8_E4M3").name, "fp8");
  EXPECT_EQ(quant_type("f8_e5m2").name, "fp8_e5m2");
  for (const char* type : {"IQ2_XXS", "TQ1_0", "mxfp4"}) {
    const Error error = error_of([&] { quant_type(type); });
    EXPECT_NE(error.facts().found.find("can be read, not written"), std::string::npos) << type;
  }
  EXPECT_EQ(error_of([&] { quant_type("Q9_0"); }).facts().found, "'Q9_0'");
}

}  // namespace
}  // namespace atelier
