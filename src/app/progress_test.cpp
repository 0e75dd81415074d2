// Displays: JSON lines, plain lines, the bar's text.
#include "app/progress.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace atelier {
namespace {

/// What a display prints on both streams for `events`.
std::pair<std::string, std::string> shown(Display display, const std::vector<Json>& events,
                                          bool verbose = false) {
  std::pair<std::string, std::string> texts;
  std::FILE* out = std::tmpfile();
  std::FILE* log = std::tmpfile();
  {
    const auto printer = make_printer(display, out, log, verbose);
    for (const Json& event : events) printer->event(event);
  }
  for (auto [file, text] : {std::pair{out, &texts.first}, std::pair{log, &texts.second}}) {
    std::rewind(file);
    for (int c; (c = std::fgetc(file)) != EOF;) *text += static_cast<char>(c);
    std::fclose(file);
  }
  return texts;
}

const Json kStep = {{"event", "step"},     {"run", 2},    {"runs", 3},
                    {"step", 5},           {"steps", 20}, {"seconds_per_step", 1.5},
                    {"seconds_left", 22.5}};
const Json kImage = {{"event", "image"}, {"file", "o/a.png"}};

TEST(Progress, WritesDurationsAsPeopleSayThem) {
  EXPECT_EQ(duration(0.846), "0.85 s");
  EXPECT_EQ(duration(12.34), "12.3 s");
  EXPECT_EQ(duration(245), "4 min 05 s");
  EXPECT_EQ(duration(7380), "2 h 03 min");
  EXPECT_EQ(duration(-1), "0.00 s");
  EXPECT_EQ(duration(std::numeric_limits<double>::quiet_NaN()), "0.00 s");
}

TEST(Progress, ListsAllThatAWarningIsAboutIfAskedTo) {
  const Json warning = {
      {"event", "warning"}, {"message", "3 names: a, b and 1 more"}, {"items", {"a", "b", "c"}}};
  for (const Display display : {Display::plain, Display::terminal}) {
    EXPECT_EQ(shown(display, {warning}).second,
              "warning: 3 names: a, b and 1 more (--verbose lists all)\n");
    EXPECT_EQ(shown(display, {warning}, true).second,
              "warning: 3 names: a, b and 1 more\n  a\n  b\n  c\n");
  }
  const Json plain = {{"event", "warning"}, {"message", "x"}};
  EXPECT_EQ(shown(Display::plain, {plain}, true).second, "warning: x\n");
}

TEST(Progress, ShowsMessagesAsOneLineWhateverTheyQuote) {
  const Json warning = {
      {"event", "warning"}, {"message", "a\nerror: b"}, {"items", {"c\u009b", "d\x1b"}}};
  EXPECT_EQ(shown(Display::plain, {warning}, true).second,
            "warning: a\\nerror: b\n  c\\xc2\\x9b\n  d\\x1b\n");
  const Json error = {{"event", "error"}, {"message", "a\nb"}};
  EXPECT_EQ(shown(Display::plain, {error}).second, "error: a\\nb\n");
}

TEST(Progress, GoesOnWhereNothingCanBeWritten) {
  std::FILE* full = std::fopen("/dev/full", "w");
  if (!full) GTEST_SKIP() << "no /dev/full";
  for (const Display display : {Display::json, Display::plain, Display::terminal}) {
    const auto printer = make_printer(display, full, full);
    for (int i = 0; i < 200; ++i)
      for (const Json& event : {kStep, kImage}) EXPECT_NO_THROW(printer->event(event));
  }
  EXPECT_NE(std::ferror(full), 0);
  std::fclose(full);
}

TEST(Progress, PutsOneJsonObjectOnALine) {
  const auto [out, log] = shown(Display::json, {kStep, {{"event", "x"}, {"text", "\xFF\n"}}});
  EXPECT_EQ(log, "");
  const size_t first = out.find('\n');
  EXPECT_EQ(Json::parse(out.substr(0, first)), kStep);
  EXPECT_EQ(out.find('\n', first + 1), out.size() - 1);
  EXPECT_TRUE(Json::accept(out.substr(first + 1)));
}

TEST(Progress, KeepsFilesApartFromProgress) {
  const auto [out, log] = shown(Display::plain, {kStep, kImage});
  EXPECT_EQ(out, "o/a.png\n");
  EXPECT_EQ(log, "prompt 2/3, step 5/20, 1.50 s/step, 22.5 s left\n");
}

TEST(Progress, DrawsABarAndClearsItBeforeOtherText) {
  const auto [out, log] = shown(Display::terminal, {kStep, kImage});
  EXPECT_EQ(out, "o/a.png\n");
  EXPECT_NE(log.find("###"), std::string::npos);
  EXPECT_NE(log.find("step 5/20"), std::string::npos);
  EXPECT_TRUE(log.ends_with("\r\x1b[K"));
}

}  // namespace
}  // namespace atelier
