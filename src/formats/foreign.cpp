// The table of foreign kinds, by their first bytes.
#include "formats/foreign.h"

#include <algorithm>
#include <array>

namespace atelier {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kResave =
    "Load it with torch.load where you trust it and save its tensors with "
    "safetensors.torch.save_file";
constexpr std::string_view kDownload =
    "The download saved something else than the model; download the file itself";

constexpr std::string_view kGiveModel = "Give the file with the model's weights";

constexpr std::string_view kGiveTokenizer = "Such a file is given with --t5-tokenizer";

constexpr std::array kKinds = {
    // The first piece of a ModelProto, as T5's and Llama's are.
    ForeignKind{"a SentencePiece tokenizer", 2, "\x0a\x05<pad>"sv, kGiveTokenizer},
    ForeignKind{"a SentencePiece tokenizer", 2, "\x0a\x05<unk>"sv, kGiveTokenizer},
    // The long 0x1950a86a20f9469cfc6c with which torch.save began before torch 1.6.
    ForeignKind{"a torch file of before 1.6, which is no zip archive", 2,
                "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv, kResave},
    ForeignKind{"a torch file of before 0.1.10 or another tar archive", 257, "ustar"sv, kResave},
    ForeignKind{"a bare Python pickle", 0, "\x80\x02"sv, kResave},
    ForeignKind{"a bare Python pickle", 0, "\x80\x03"sv, kResave},
    ForeignKind{"a bare Python pickle", 0, "\x80\x04"sv, kResave},
    ForeignKind{"a bare Python pickle", 0, "\x80\x05"sv, kResave},
    ForeignKind{"a NumPy array", 0, "\x93NUMPY"sv, "Save tensors as safetensors"},
    ForeignKind{"an HDF5 (Keras) file", 0, "\x89HDF\r\n\x1a\n"sv, "Convert it to safetensors"},
    ForeignKind{"a GGML file of before GGUF", 0, "lmgg"sv, "Convert it to GGUF"},
    ForeignKind{"a GGML file of before GGUF", 0, "fmgg"sv, "Convert it to GGUF"},
    ForeignKind{"a GGML file of before GGUF", 0, "tjgg"sv, "Convert it to GGUF"},
    ForeignKind{"a big-endian GGUF file", 0, "FUGG"sv,
                "Convert it with gguf-py's gguf_convert_endian"},
    ForeignKind{"a Git LFS pointer", 0, "version https://git-lfs"sv,
                "Run 'git lfs pull', or download the file itself"},
    ForeignKind{"a web page", 0, "<!"sv, kDownload},
    ForeignKind{"a web page", 0, "<html"sv, kDownload},
    ForeignKind{"an XML error message", 0, "<?xml"sv, kDownload},
    ForeignKind{"a gzip archive", 0, "\x1f\x8b"sv, "Unpack it first"},
    ForeignKind{"an xz archive", 0,
                "\xfd"
                "7zXZ"sv,
                "Unpack it first"},
    ForeignKind{"a zstd archive", 0, "\x28\xb5\x2f\xfd"sv, "Unpack it first"},
    ForeignKind{"a 7z archive", 0, "7z\xbc\xaf\x27\x1c"sv, "Unpack it first"},
    ForeignKind{"a RAR archive", 0, "Rar!\x1a\x07"sv, "Unpack it first"},
    ForeignKind{"a PNG picture", 0, "\x89PNG\r\n\x1a\n"sv, kGiveModel},
    ForeignKind{"a JPEG picture", 0, "\xff\xd8\xff"sv, kGiveModel},
    ForeignKind{"a program", 0,
                "\x7f"
                "ELF"sv,
                kGiveModel},
    ForeignKind{"a PDF document", 0, "%PDF-"sv, kGiveModel},
    ForeignKind{"a TFLite model", 4, "TFL3"sv, "Only PyTorch and GGUF weights can be read"},
};

}  // namespace

const ForeignKind* foreign_kind(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  const auto row = std::find_if(kKinds.begin(), kKinds.end(), [&](const ForeignKind& kind) {
    return text.size() >= kind.offset && text.substr(kind.offset).starts_with(kind.magic);
  });
  return row == kKinds.end() ? nullptr : &*row;
}

}  // namespace atelier
