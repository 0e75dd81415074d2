// One call of `atelier generate` from its options to its files.
#pragma once

#include <chrono>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "app/engine/picture_files.h"
#include "app/engine/plan.h"
#include "app/engine/preview.h"
#include "app/engine/slow_step.h"
#include "app/engine/step_clock.h"
#include "app/engine_interface.h"
#include "pipeline/importance.h"
#include "pipeline/model_call.h"

namespace atelier {

/// Runs the phases in order and reports each as events. Used once, by one thread.
class Generation {
 public:
  /// Events tell seconds from `started` on.
  Generation(const GenerateOptions& options, EngineHost& host,
             StepClock::Clock::time_point started);
  /// Throws `Error`; what was finished before stays.
  void run();

 private:
  void read_inputs();
  void read_loras();
  int choose_threads();
  void begin_preview();
  /// Throws as `check_outputs` for all files this call will write.
  void check_names();
  void prepare_files();
  void encode_prompts();
  Conditioning encode(const std::string& prompt, const PromptReader& reader, double score);
  void load_model();
  void load_unet();
  /// Frees the weights of a part; they come back when it is next used.
  template <class Part>
  void leave(Component<Part>& part);
  void draw_run(size_t run);
  at::Tensor sample_run(size_t run);
  void on_step(size_t run, const Step& step);
  void write_pictures(size_t run, const at::Tensor& latent);
  void write_sheet();
  void begin_collecting();
  void write_importance();
  void finish();

  OutFacts out_facts(size_t run) const;
  PictureFacts facts_of(size_t run, int64_t batch_index) const;
  Json used_settings() const;
  VaeTiling tiling() const { return options_.tiled_vae ? VaeTiling::on : VaeTiling::off; }
  void phase(const char* name);
  /// Tells the host, unless the same was said already. `items` are all of what `message` names only
  /// the first few of.
  void warn(const std::string& message, const std::vector<std::string>& items = {});
  /// Says what is allowed but hardly meant.
  void warn_of_options();
  void warn_of_lora_words();
  /// Throws `cancelled` once the host asks to stop.
  void check_stop() const;

  const GenerateOptions& options_;
  EngineHost& host_;
  StepClock::Clock::time_point started_;
  StartPictures pictures_;
  ImportanceMatrix importance_;
  std::set<std::string> warned_;
  std::list<ImportanceCollector> collectors_;
  std::optional<Engine> engine_;  // watched by the collectors
  Plan plan_;
  std::vector<Conditioning> positive_;  // by run
  Conditioning negative_;
  StartLatent start_;
  std::optional<Preview> preview_;
  std::optional<StepClock> clock_;
  std::optional<SlowSteps> slow_;
  int64_t calls_ = 0;  // of the model, in this step
  PictureFiles files_;
  std::vector<Image> drawn_;  // kept for the sheet
  std::vector<std::string> written_;
};

}  // namespace atelier
