// Command cri-api prints every fact of the CRI's compiled descriptor, one a line, sorted bytewise, so that the
// descriptor compiled from this repository's protos can be printed the same way and compared.
//
// Lines (fields parted by one space; names relative to package runtime.v1, a nested message as Outer.Inner):
//
//	message NAME
//	field MESSAGE NUMBER NAME LABEL TYPE [oneof ONEOF]
//	enum NAME
//	value ENUM NUMBER NAME
//	rpc SERVICE METHOD REQUEST RESPONSE CLIENT SERVER
//
// LABEL is optional, required or repeated, as the descriptor says (proto3's singular fields are optional; a map
// is a repeated field of its synthetic entry message, which is listed like any other message).
// TYPE is the descriptor's scalar name (int32, bool, string, bytes, ...) or "message NAME" or "enum NAME".
// ONEOF is written for the members of a oneof that was declared as such, and "oneof _optional" for a field with
// the proto3 keyword optional.
// CLIENT and SERVER are unary or stream.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const pkg = "runtime.v1."

func main() {
	file := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
	var facts []string
	facts = append(facts, enums(file.Enums())...)
	facts = append(facts, messages(file.Messages())...)
	facts = append(facts, services(file.Services())...)
	slices.Sort(facts)
	if _, err := fmt.Println(strings.Join(facts, "\n")); err != nil {
		os.Exit(1)
	}
}

func name(d protoreflect.Descriptor) string {
	return strings.TrimPrefix(string(d.FullName()), pkg)
}

func enums(all protoreflect.EnumDescriptors) (facts []string) {
	for i := range all.Len() {
		enum := all.Get(i)
		facts = append(facts, "enum "+name(enum))
		for v := range enum.Values().Len() {
			value := enum.Values().Get(v)
			facts = append(facts, fmt.Sprintf("value %s %d %s", name(enum), value.Number(), value.Name()))
		}
	}
	return facts
}

func messages(all protoreflect.MessageDescriptors) (facts []string) {
	for i := range all.Len() {
		message := all.Get(i)
		facts = append(facts, "message "+name(message))
		for f := range message.Fields().Len() {
			facts = append(facts, field(message, message.Fields().Get(f)))
		}
		facts = append(facts, enums(message.Enums())...)
		facts = append(facts, messages(message.Messages())...)
	}
	return facts
}

func field(message protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch f.Kind() {
	case protoreflect.MessageKind:
		kind += " " + name(f.Message())
	case protoreflect.EnumKind:
		kind += " " + name(f.Enum())
	}
	fact := fmt.Sprintf("field %s %d %s %s %s", name(message), f.Number(), f.Name(), f.Cardinality(), kind)
	if oneof := f.ContainingOneof(); oneof != nil {
		if oneof.IsSynthetic() {
			return fact + " oneof _optional"
		}
		return fact + " oneof " + string(oneof.Name())
	}
	return fact
}

func services(all protoreflect.ServiceDescriptors) (facts []string) {
	for i := range all.Len() {
		service := all.Get(i)
		for m := range service.Methods().Len() {
			rpc := service.Methods().Get(m)
			facts = append(facts, fmt.Sprintf("rpc %s %s %s %s %s %s", name(service), rpc.Name(),
				name(rpc.Input()), name(rpc.Output()), stream(rpc.IsStreamingClient()), stream(rpc.IsStreamingServer())))
		}
	}
	return facts
}

func stream(streams bool) string {
	if streams {
		return "stream"
	}
	return "unary"
}
