// LoRAs in an engine: strengths change what is drawn, taking them away restores every byte, and
// nothing is read twice.
#include "pipeline/loras.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "formats/safetensors.h"
#include "models/golden_files.h"
#include "models/model.h"
#include "pipeline/component.h"

namespace atelier {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

/// The golden UNet of SD 1.x as a component, and a folder with copies of its LoRA.
class Shelf : public ::testing::Test {
 protected:
  Shelf() {
    fs::create_directories(folder_);
    for (const char* name : {"one.safetensors", "two.safetensors"})
      fs::copy_file(golden_lora(), folder_ / name);
    BindReport report;
    unet_.bind(report);
    report.throw_if_bad("golden");
    weights_ = report.manifest();
  }
  ~Shelf() override { fs::remove_all(folder_); }

  static fs::path golden_lora() {
    return fs::path(ATELIER_SOURCE_DIR) / "tests" / "golden" / "lora" / "sd1_kohya.safetensors";
  }
  fs::path file(const char* name) const { return folder_ / name; }

  LoraModel model() const {
    return {def_->name, def_->title, {{"unet", true, def_->denoiser.layouts, &weights_}}};
  }
  std::vector<LoraWarning> set(const std::vector<LoraUse>& uses) {
    LoraShelf::Result result = shelf_.use(uses, model());
    unet_.patch(std::move(result.tables.at(0)));
    return result.warnings;
  }
  Tensor output() {
    DiffusionInput in;
    in.x = golden::tensor(*expected_, "x");
    in.timestep = golden::tensor(*expected_, "timestep");
    in.context = nn::Context(golden::tensor(*expected_, "context"));
    return unet_.get().forward(in);
  }

  fs::path folder_ = fs::temp_directory_path() / ("atelier_loras_" + std::to_string(::getpid()));
  std::shared_ptr<const TensorSource> source_ = golden::source("unet_sd1", "model");
  std::shared_ptr<const TensorSource> expected_ = golden::source("unet_sd1", "expected");
  const ModelDef* def_ = detect_model(source_).def;
  Component<DiffusionModel> unet_{
      def_->denoiser,
      {source_, *find_place(*source_, def_->prefixes, def_->denoiser.layouts)},
      Compute{}};
  WeightShapes weights_;
  LoraShelf shelf_;
};

TEST_F(Shelf, TakingLorasAwayRestoresEveryByte) {
  const Tensor plain = output();
  set({{file("one.safetensors"), 0.8}, {file("two.safetensors"), -0.3}});
  const Tensor with = output();
  EXPECT_GT(golden::relative_error(with, plain), 0.01);
  set({});
  EXPECT_TRUE(at::equal(output(), plain));
  set({{file("one.safetensors"), 0.8}, {file("two.safetensors"), -0.3}});
  EXPECT_TRUE(at::equal(output(), with));
}

TEST_F(Shelf, SeveralLorasAddUp) {
  set({{file("one.safetensors"), 0.5}, {file("two.safetensors"), 0.25}});
  const Tensor both = output();
  set({{file("one.safetensors"), 0.75}});
  EXPECT_TRUE(golden::close(output(), both, 1e-5));
  const Tensor plain = (set({}), output());
  set({{file("one.safetensors"), 1}, {file("two.safetensors"), -1}});
  EXPECT_TRUE(golden::close(output(), plain, 1e-4));
}

TEST_F(Shelf, AReleasedPartKeepsItsLoras) {
  set({{file("one.safetensors"), 0.8}});
  const Tensor with = output();
  unet_.release();
  EXPECT_TRUE(at::equal(output(), with));
}

TEST_F(Shelf, AFileInUseIsNotReadAgain) {
  const LoraUse use{file("one.safetensors"), 0.8};
  EXPECT_EQ(set({use}).size(), 1U);  // about the text encoder that this model lacks
  const Lora* const read = &shelf_.lora(use.file);
  const Tensor with = output();
  fs::remove(use.file);
  EXPECT_TRUE(set({{use.file, -0.8}}).empty());
  EXPECT_EQ(&shelf_.lora(use.file), read);
  EXPECT_GT(golden::relative_error(output(), with), 0.01);
  set({use});
  EXPECT_TRUE(at::equal(output(), with));
  set({});
  EXPECT_EQ(shelf_.bytes(), Bytes());
  EXPECT_THROW(set({use}), Error);
}

TEST_F(Shelf, AStrengthChangesOnlyTheWeightsItConcerns) {
  const LoraShelf::Result before = shelf_.use(
      std::vector<LoraUse>{{file("one.safetensors")}, {file("two.safetensors"), 1, 1, "IN=0"}},
      model());
  const LoraShelf::Result after = shelf_.use(
      std::vector<LoraUse>{{file("one.safetensors")}, {file("two.safetensors"), 0.5, 1, "IN=0"}},
      model());
  int64_t same = 0, changed = 0;
  for (const auto& [name, placed] : before.tables[0]) {
    const bool input = name.starts_with("input_blocks.");
    EXPECT_EQ(placed == after.tables[0].at(name), input) << name;
    ++(input ? same : changed);
  }
  EXPECT_GT(same, 0);
  EXPECT_GT(changed, 0);
}

TEST_F(Shelf, AStrengthOfZeroIsNoChange) {
  const LoraShelf::Result result =
      shelf_.use(std::vector<LoraUse>{{file("one.safetensors"), 0}}, model());
  EXPECT_TRUE(result.tables.at(0).empty());
}

TEST_F(Shelf, AFileThatIsWrongLeavesAllAsItWas) {
  set({{file("one.safetensors"), 0.8}});
  const Tensor with = output();
  std::ofstream(file("bad.safetensors")) << "no tensors";
  EXPECT_THROW(set({{file("two.safetensors")}, {file("bad.safetensors")}}), Error);
  EXPECT_THROW(set({{file("two.safetensors"), 1, 1, "XX=1"}}), Error);
  EXPECT_TRUE(at::equal(output(), with));
  EXPECT_NO_THROW(shelf_.lora(file("one.safetensors")));
}

TEST_F(Shelf, TheModelsOwnBytesStayUntouched) {
  const auto copy = [&] {
    std::vector<std::byte> all;
    for (const auto& [name, info] : source_->tensors()) {
      const auto bytes = source_->bytes(name);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  };
  const auto before = copy();
  set({{file("one.safetensors"), 3}});
  output();
  EXPECT_EQ(copy(), before);
}

// Merging into weights must not depend on how many threads share the work.
TEST(Merging, GivesTheSameBytesForAnyNumberOfThreads) {
  struct Size {
    int64_t rows, columns, rank;
  };
  constexpr KeyLayout kOwn[] = {{.name = "original", .signature = "m.weight"}};
  const int before = at::get_num_threads();
  for (const auto [rows, columns, rank] :
       {Size{640, 320, 24}, {33, 77, 5}, {1280, 2880, 8}, {1024, 1024, 128}, {4, 3000, 1}}) {
    const auto numbers = [](int64_t n, int64_t m) {
      return at::sin(at::arange(n * m, at::kFloat)).view({n, m});
    };
    MemorySource source("wide");
    source.put("m.lora_up.weight", numbers(rows, rank));
    source.put("m.lora_down.weight", numbers(rank, columns));
    const WeightShapes shapes{{"m.weight", {rows, columns}}};
    const auto lora = read_lora(source, {"toy", "a toy", {{"toy", true, kOwn, &shapes}}});
    const Tensor base = numbers(rows, columns);
    std::vector<Tensor> merged;
    for (const int threads : {1, 2, 3, 7}) {
      at::set_num_threads(threads);
      merged.push_back(base.clone());
      lora->changes.at(0).placed.patch->apply(merged.back(), 0.7);
    }
    at::set_num_threads(before);
    for (const Tensor& one : merged) EXPECT_TRUE(at::equal(one, merged.front())) << rows;
  }
}

}  // namespace
}  // namespace atelier
