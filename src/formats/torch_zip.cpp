// Walks the dictionary of data.pkl and places every tensor in the archive.
#include "formats/torch_zip.h"

#include <fmt/format.h>

#include "base/error.h"
#include "formats/contents.h"
#include "formats/layout.h"
#include "formats/pickle.h"
#include "formats/torch_archive.h"
#include "formats/torch_tensor.h"

namespace atelier {
namespace {

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxVisits = 2'000'000;  // of values while names are made: sharing can multiply
constexpr size_t kMaxNames = 64 << 20;  // bytes of all names together
constexpr size_t kMaxCopiedText = 64 << 10;
constexpr std::string_view kLoneTensor = "tensor";  // its name where a file is nothing else

[[noreturn]] void fail(ErrorCode code, std::string subject, std::string expected, std::string found,
                       std::string_view hint = kDamaged) {
  throw Error(code, {.subject = std::move(subject),
                     .expected = std::move(expected),
                     .found = std::move(found),
                     .hint = std::string(hint)});
}

class TorchReader {
 public:
  explicit TorchReader(std::span<const std::byte> file)
      : archive_(file), tree_(read_pickle(archive_.pickle())) {}
  FileContents read();

 private:
  PickleId state_dict() const;
  void read_scalars();
  void visit(PickleId id, const std::string& name, size_t depth);
  void visit_dict(const PickleValue& dict, const std::string& name, size_t depth);
  void add_tensor(const PickleValue& value, const std::string& name);

  TorchArchive archive_;
  PickleTree tree_;
  FileContents contents_;
  size_t visits_ = 0, name_bytes_ = 0;
};

FileContents TorchReader::read() {
  const PickleValue& root = tree_[tree_.root];
  if (root.kind == PickleKind::call) {
    add_tensor(root, std::string(kLoneTensor));
  } else if (root.kind == PickleKind::dict) {
    read_scalars();
    visit(state_dict(), "", 0);
  } else {
    fail(ErrorCode::unsupported, "data.pkl", "a dictionary of tensors", "another value",
         "Save a dictionary that names the tensors");
  }
  archive_.check_overlap();
  return std::move(contents_);
}

/// The dictionary under "state_dict" where there is one, as in training checkpoints.
PickleId TorchReader::state_dict() const {
  const std::vector<PickleId>& items = tree_[tree_.root].items;
  for (size_t i = 0; i < items.size(); i += 2) {
    const PickleValue& key = tree_[items[i]];
    if (key.kind == PickleKind::text && key.text == "state_dict" &&
        tree_[items[i + 1]].kind == PickleKind::dict)
      return items[i + 1];
  }
  return tree_.root;
}

void TorchReader::read_scalars() {
  const std::vector<PickleId>& items = tree_[tree_.root].items;
  for (size_t i = 0; i < items.size(); i += 2) {
    const PickleValue& key = tree_[items[i]];
    const PickleValue& value = tree_[items[i + 1]];
    const bool fits = value.text.size() <= kMaxCopiedText && is_utf8(value.text);
    if (key.kind != PickleKind::text || key.text.size() > kMaxCopiedText || !is_utf8(key.text))
      continue;
    std::string text;
    if (value.kind == PickleKind::integer) text = fmt::format("{}", value.integer);
    if (value.kind == PickleKind::boolean) text = value.integer != 0 ? "true" : "false";
    if (value.kind == PickleKind::real) text = fmt::format("{}", value.real);
    if (value.kind == PickleKind::text && fits) text = value.text;
    if (!text.empty()) contents_.metadata.insert_or_assign(std::string(key.text), std::move(text));
  }
}

/// Walks containers and adds every tensor under the path that leads to it.
void TorchReader::visit(PickleId id, const std::string& name, size_t depth) {
  name_bytes_ += name.size();
  if (depth > kMaxDepth || ++visits_ > kMaxVisits || name_bytes_ > kMaxNames)
    fail(ErrorCode::malformed, "entry " + in_quotes(name),
         fmt::format("values nested at most {} deep and at most {} of them", kMaxDepth, kMaxVisits),
         "more");
  const PickleValue& value = tree_[id];
  if (value.kind == PickleKind::call) add_tensor(value, name);
  if (value.kind == PickleKind::dict) visit_dict(value, name, depth);
  if (value.kind == PickleKind::list || value.kind == PickleKind::tuple)
    for (size_t i = 0; i < value.items.size(); ++i)
      visit(value.items[i], fmt::format("{}{}{}", name, name.empty() ? "" : ".", i), depth + 1);
}

void TorchReader::visit_dict(const PickleValue& dict, const std::string& name, size_t depth) {
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleValue& key = tree_[dict.items[i]];
    const bool text = key.kind == PickleKind::text && is_utf8(key.text);
    if (!text && key.kind != PickleKind::integer)
      fail(ErrorCode::unsupported, "dictionary " + in_quotes(name), "keys of text or integers",
           "another key");
    const std::string part = text ? std::string(key.text) : fmt::format("{}", key.integer);
    visit(dict.items[i + 1], name.empty() ? part : name + "." + part, depth + 1);
  }
}

void TorchReader::add_tensor(const PickleValue& value, const std::string& name) {
  const std::string subject = tensor_subject(name);
  const TorchTensor tensor = torch_tensor(tree_, value, subject);
  const auto storage = archive_.storage(tensor.storage, subject);
  if (tensor.storage_bytes > storage.size())
    fail(ErrorCode::malformed, subject,
         fmt::format("{} bytes in storage {}", tensor.storage_bytes, in_quotes(tensor.storage)),
         fmt::format("{}", storage.size()));
  TensorInfo info{.shape = tensor.shape, .encoding = tensor.encoding};
  info.size = encoded_size(info.shape, info.encoding, subject);
  const auto extent = tensor.extent();
  if (!extent || *extent > tensor.storage_bytes)
    fail(ErrorCode::malformed, subject,
         fmt::format("elements within the {} bytes of its storage", tensor.storage_bytes),
         fmt::format("shape {}, strides {}, offset {}", to_string(tensor.shape),
                     to_string(tensor.strides), tensor.offset));
  info.offset = archive_.offset_of(storage);
  if (info.size > 0)
    info.offset += tensor.offset * static_cast<uint64_t>(encoding_info(info.encoding).block_bytes);
  info.strided = !tensor.contiguous();
  if (info.strided && info.size > tensor.storage_bytes)
    fail(ErrorCode::unsupported, subject, "each element stored once",
         fmt::format("an expanded view, strides {}", to_string(tensor.strides)),
         "Save the tensor with .contiguous()");
  if (info.strided) contents_.strides.emplace(name, tensor.strides);
  if (!contents_.tensors.emplace(name, std::move(info)).second)
    fail(ErrorCode::malformed, subject, "every name once", "it twice");
}

}  // namespace

FileContents read_torch_zip(std::span<const std::byte> file) { return TorchReader(file).read(); }

}  // namespace atelier
