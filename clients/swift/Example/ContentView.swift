import ElitEdge
import SwiftUI

struct ContentView: View {
    @StateObject private var painter = Painter()
    @State private var label = 0
    @State private var isTimed = false
    @State private var steps = 20.0
    @State private var budget = 0
    @State private var seconds = 2.0
    @State private var seed: UInt64 = 0

    var body: some View {
        VStack(spacing: 16) {
            canvas
            Text(painter.status).font(.footnote)
            if let manifest = painter.manifest {
                controls(manifest)
            }
        }
        .padding()
        .task { await painter.open() }
    }

    private var canvas: some View {
        ZStack {
            if let image = painter.picture?.cgImage {
                Image(decorative: image, scale: 1).resizable().interpolation(.none).aspectRatio(1, contentMode: .fit)
            } else {
                Rectangle().fill(.quaternary).aspectRatio(1, contentMode: .fit)
            }
        }
    }

    @ViewBuilder
    private func controls(_ manifest: Manifest) -> some View {
        Picker("Class", selection: $label) {
            ForEach(0..<manifest.model.numClasses, id: \.self) { index in
                Text(manifest.model.classNames?[index] ?? "\(index)")
            }
        }
        Toggle("Deadline", isOn: $isTimed)
        if isTimed {
            Slider(value: $seconds, in: 0.2...10) { Text("\(seconds, specifier: "%.1f") s") }
        } else {
            Slider(value: $steps, in: 1...50, step: 1) { Text("\(Int(steps)) steps") }
            Picker("Latents a group", selection: $budget) {
                ForEach(Array(manifest.budgets.reversed().enumerated()), id: \.offset) { index, latents in
                    Text("\(latents)").tag(index)
                }
            }
        }
        if let done = painter.done {
            ProgressView(value: done)
            Button("Cancel", action: painter.cancel)
        } else {
            Button("Draw") { draw(manifest) }
        }
    }

    private func draw(_ manifest: Manifest) {
        let latents = Array(manifest.budgets.reversed())[budget]
        painter.paint(
            label, isTimed ? .deadline(seconds: seconds) : .steps(Int(steps), latents: latents), seed: seed)
        seed += 1
    }
}
