// Recognising, mapping and joining files; gathering of strided tensors on first use.
#include "formats/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "formats/contents.h"
#include "formats/foreign.h"
#include "formats/gather.h"
#include "formats/gguf.h"
#include "formats/layout.h"
#include "formats/safetensors.h"
#include "formats/shard_index.h"
#include "formats/torch_zip.h"
#include "formats/zip.h"

namespace atelier {
namespace {

using FileBytes = std::span<const std::byte>;
constexpr size_t kMaxShards = 4096;

constexpr std::array kReaders = {
    ReaderInfo{"GGUF", is_gguf, read_gguf},
    ReaderInfo{"torch zip", is_zip, read_torch_zip},
    ReaderInfo{"index", is_shard_index, read_shard_index},
    ReaderInfo{"safetensors", is_safetensors, read_safetensors},
};

std::string first_bytes(FileBytes file) {
  if (file.empty()) return "an empty file";
  const FileBytes start = file.first(std::min<size_t>(file.size(), 512));
  if (std::ranges::all_of(start, [](std::byte byte) {
        const auto c = std::to_integer<unsigned char>(byte);
        return (c >= ' ' && c < 0x7f) || c == '\n' || c == '\r' || c == '\t';
      }))
    return "a text";
  std::string text = "a file that starts with";
  for (const std::byte byte : file.first(std::min<size_t>(file.size(), 8)))
    text += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
  return text;
}

const ReaderInfo& recognise(FileBytes file) {
  const auto row = std::find_if(kReaders.begin(), kReaders.end(),
                                [&](const ReaderInfo& reader) { return reader.recognise(file); });
  if (row != kReaders.end()) return *row;
  const ForeignKind* foreign = foreign_kind(file);
  throw Error(ErrorCode::unsupported,
              {.expected = "a checkpoint (safetensors, GGUF, or a zip file of torch.save)",
               .found = foreign ? std::string(foreign->name) : first_bytes(file),
               .hint = std::string(foreign        ? foreign->hint
                                   : file.empty() ? "The download has failed; repeat it"
                                                  : "It is damaged, or of a kind not supported")});
}

/// One mapped file and what its reader found.
struct OpenedFile {
  MappedFile file;
  std::string_view format;
  FileContents contents;
};

OpenedFile open_file(const std::filesystem::path& path) {
  MappedFile file = MappedFile::open(path);
  try {
    const ReaderInfo& reader = recognise(file.bytes());
    return {file, reader.name, reader.read(file.bytes())};
  } catch (const Error& error) {
    throw error.within(path.string());
  }
}

}  // namespace

std::span<const ReaderInfo> readers() { return kReaders; }

Checkpoint::~Checkpoint() = default;

Checkpoint::Checkpoint(const std::filesystem::path& path) : path_(path) {
  OpenedFile opened = open_file(path);
  if (opened.contents.shards.empty())
    add_file(std::move(opened.file), opened.format, std::move(opened.contents));
  else
    open_shards(std::move(opened.contents));
}

void Checkpoint::add_file(MappedFile file, std::string_view format, FileContents contents) {
  const auto shard = static_cast<uint32_t>(files_.size());
  for (auto& [tensor, info] : contents.tensors) info.shard = shard;
  tensors_.merge(contents.tensors);
  for (const auto& [tensor, info] : contents.tensors)
    throw Error(ErrorCode::malformed,
                {.subject = fmt::format("{}: {}", path_.string(), tensor_subject(tensor)),
                 .expected = "it in one shard",
                 .found = fmt::format("it in {} and in {}",
                                      files_[tensors_.at(tensor).shard].path().filename().string(),
                                      file.path().filename().string())});
  metadata_.merge(contents.metadata);
  gguf_.merge(contents.gguf);
  strides_.merge(contents.strides);
  files_.push_back(std::move(file));
  format_ = format;
}

void Checkpoint::open_shards(FileContents index) {
  std::set<std::string_view> names;
  for (const auto& [tensor, shard] : index.shards) names.insert(shard);
  const auto fail = [&](ErrorCode code, std::string subject, std::string expected,
                        std::string found, std::string hint = "") {
    throw Error(code, {.subject = fmt::format("{}: {}", path_.string(), subject),
                       .expected = std::move(expected),
                       .found = std::move(found),
                       .hint = std::move(hint)});
  };
  if (names.size() > kMaxShards)
    fail(ErrorCode::malformed, "index", fmt::format("at most {} shards", kMaxShards),
         fmt::format("{}", names.size()));
  metadata_ = std::move(index.metadata);
  for (const std::string_view name : names) {
    OpenedFile part = open_file(path_.parent_path() / name);
    if (!part.contents.shards.empty())
      fail(ErrorCode::malformed, "shard " + in_quotes(name), "a file with tensors",
           "another index");
    add_file(std::move(part.file), part.format, std::move(part.contents));
  }
  format_ += fmt::format(", {} shards", names.size());
  for (const auto& [tensor, shard] : index.shards) {
    const auto found = tensors_.find(tensor);
    const bool here =
        found != tensors_.end() && files_[found->second.shard].path().filename().string() == shard;
    if (!here)
      fail(ErrorCode::mismatch, tensor_subject(tensor),
           "it in shard " + in_quotes(shard) + ", as the index says",
           found == tensors_.end() ? "it nowhere" : "it in another shard",
           "The shards are of different models or versions");
  }
}

const TensorTable::value_type& Checkpoint::entry(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return *found;
  throw Error(
      ErrorCode::not_found,
      {.subject = label(), .expected = tensor_subject(name), .found = "no tensor of this name"});
}

std::span<const std::byte> Checkpoint::stored(const TensorInfo& info) const {
  return files_[info.shard].bytes().subspan(info.offset, info.size);
}

std::span<const std::byte> Checkpoint::bytes(std::string_view name) const {
  const auto& [key, info] = entry(name);
  if (!info.strided) return stored(info);
  const std::lock_guard lock(mutex_);
  auto found = gathered_.find(key);
  if (found == gathered_.end()) {
    std::vector<std::byte> bytes = gather(files_[info.shard].bytes(), info, strides_.at(key));
    found = gathered_.emplace(key, std::move(bytes)).first;
  }
  return found->second;
}

void Checkpoint::will_need(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end())
    files_[found->second.shard].will_need(found->second.offset, found->second.size);
}

void Checkpoint::wont_need(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end())
    files_[found->second.shard].wont_need(found->second.offset, found->second.size);
}

std::shared_ptr<const Checkpoint> open_checkpoint(const std::filesystem::path& path) {
  return std::shared_ptr<const Checkpoint>(new Checkpoint(path));
}

}  // namespace atelier
