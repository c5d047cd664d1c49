// Compiles HLSL with a libdxcompiler.so, whose interface has the layout of the headers that it came
// with: setup builds this program with them.
//
//   dxc LIBRARY    reads kernels from standard input, each as a line `ENTRY LENGTH` and LENGTH bytes
//                  of HLSL, and answers each with a line: `ok`, or the compiler's first error

#include <dlfcn.h>

#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include "dxcapi.h"

namespace {

// The line of a message that has the first error.
std::string first_error(const std::string &message) {
    std::istringstream lines(message);
    std::string line, first;
    while (std::getline(lines, line)) {
        if (first.empty()) {
            first = line;
        }
        if (line.find("error") != std::string::npos) {
            return line;
        }
    }
    return first.empty() ? "error without a message" : first;
}

std::string compiled(IDxcLibrary *library, IDxcCompiler *compiler, const std::string &entry, const std::string &hlsl) {
    IDxcBlobEncoding *source = nullptr;
    if (library->CreateBlobWithEncodingOnHeapCopy(hlsl.data(), static_cast<UINT32>(hlsl.size()), CP_UTF8, &source) != S_OK) {
        return "the source could not be passed";
    }
    // As wgpu asks for it.
    LPCWSTR options[] = {L"-enable-16bit-types", L"-HV", L"2018", L"-no-warnings"};
    const std::wstring name(entry.begin(), entry.end());
    IDxcOperationResult *result = nullptr;
    HRESULT status = compiler->Compile(source, L"kernel.hlsl", name.c_str(), L"cs_6_2", options,
                                       static_cast<UINT32>(std::size(options)), nullptr, 0, nullptr, &result);
    if (status == S_OK) {
        result->GetStatus(&status);
    }
    std::string answer = "ok";
    if (status != S_OK) {
        IDxcBlobEncoding *errors = nullptr;
        answer = "error without a message";
        if (result != nullptr && result->GetErrorBuffer(&errors) == S_OK && errors != nullptr) {
            answer = first_error({static_cast<const char *>(errors->GetBufferPointer()), errors->GetBufferSize()});
            errors->Release();
        }
    }
    if (result != nullptr) {
        result->Release();
    }
    source->Release();
    return answer;
}

}  // namespace

int main(int count, char **arguments) {
    void *file = count == 2 ? dlopen(arguments[1], RTLD_NOW) : nullptr;
    if (file == nullptr) {
        std::cerr << (count == 2 ? dlerror() : "usage: dxc LIBRARY") << std::endl;
        return 2;
    }
    const auto create = reinterpret_cast<DxcCreateInstanceProc>(dlsym(file, "DxcCreateInstance"));
    IDxcLibrary *library = nullptr;
    IDxcCompiler *compiler = nullptr;
    if (create == nullptr || create(CLSID_DxcLibrary, __uuidof(IDxcLibrary), reinterpret_cast<void **>(&library)) != S_OK ||
        create(CLSID_DxcCompiler, __uuidof(IDxcCompiler), reinterpret_cast<void **>(&compiler)) != S_OK) {
        std::cerr << "the library is not DXC" << std::endl;
        return 2;
    }
    std::string entry;
    size_t length = 0;
    while (std::cin >> entry >> length && std::cin.get() == '\n') {
        std::string hlsl(length, '\0');
        if (!std::cin.read(&hlsl[0], static_cast<std::streamsize>(length))) {
            break;
        }
        std::cout << compiled(library, compiler, entry, hlsl) << std::endl;
    }
    return 0;
}
