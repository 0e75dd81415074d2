// A SAX pass in front of nlohmann's DOM builder checks depth and duplicate keys as bytes arrive.
#include "base/json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "base/error.h"

namespace atelier {
namespace {

class LimitedBuilder : public nlohmann::detail::json_sax_dom_parser<Json> {
  using Base = nlohmann::detail::json_sax_dom_parser<Json>;

 public:
  LimitedBuilder(Json& document, std::string_view subject, int max_depth)
      : Base(document, false), subject_(subject), max_depth_(max_depth) {}

  bool start_object(size_t count) { return enter() && Base::start_object(count); }
  bool end_object() { return keys_.pop_back(), Base::end_object(); }
  bool start_array(size_t count) { return enter() && Base::start_array(count); }
  bool end_array() { return keys_.pop_back(), Base::end_array(); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) fail("every name once", fmt::format("'{}' twice", name));
    return Base::key(name);
  }
  template <class Exception>
  bool parse_error(size_t position, const std::string&, const Exception& e) {
    constexpr int kTooLarge = 406;  // nlohmann's out_of_range of a number
    fail("JSON",
         fmt::format("an error at byte {} ({})", position,
                     e.id == kTooLarge ? "a number that is too large" : short_reason(e.what())));
    return false;
  }

 private:
  bool enter() {
    if (static_cast<int>(keys_.size()) >= max_depth_)
      fail(fmt::format("nesting of at most {}", max_depth_), "deeper");
    keys_.emplace_back();
    return true;
  }
  [[noreturn]] void fail(std::string expected, std::string found) const {
    throw Error(ErrorCode::malformed, {.subject = std::string(subject_),
                                       .expected = std::move(expected),
                                       .found = std::move(found)});
  }
  static std::string short_reason(std::string_view text) {
    if (const size_t bracket = text.find("] "); text.starts_with('[') && bracket != text.npos)
      text.remove_prefix(bracket + 2);
    if (const size_t colon = text.rfind(": "); colon != text.npos) text.remove_prefix(colon + 2);
    return std::string(text.substr(0, 120));
  }

  std::string_view subject_;
  int max_depth_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view subject, int max_depth) {
  Json root;
  LimitedBuilder builder(root, subject, max_depth);
  Json::sax_parse(text, &builder);
  return root;
}

}  // namespace atelier
