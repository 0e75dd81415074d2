// Finding a row of a table by its name, with a suggestion when there is none.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace atelier {

/// Whether `rows` are called `names`, in this order.
template <typename Rows, typename Names>
constexpr bool same_names(const Rows& rows, const Names& names) {
  if (rows.size() != names.size()) return false;
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i].name != names[i]) return false;
  return true;
}

/// The row called `name`; throws `invalid_argument` naming the nearest row, or else all of them.
template <typename Row>
const Row& find_row(std::span<const Row> rows, std::string_view kind, std::string_view name) {
  std::vector<std::string_view> names;
  std::string all;
  for (const Row& row : rows) {
    if (row.name == name) return row;
    names.push_back(row.name);
    all += (all.empty() ? "" : ", ") + std::string(row.name);
  }
  const std::string_view meant = nearest(name, names);
  const std::string hint =
      meant.empty() ? "Known are " + all : "Did you mean '" + std::string(meant) + "'?";
  throw Error(ErrorCode::invalid_argument,
              {.subject = std::string(kind),
               .expected = "there is none called '" + std::string(name.substr(0, 80)) + "'",
               .hint = hint});
}

}  // namespace atelier
