"""How numba compiles a function that compiled code alone calls: not to machine code of its own.

numba optimises each function, makes machine code of it, and does both again inside every function that calls it. What
is only ever called from compiled code needs neither: its unoptimised code is handed to the callers, where LLVM inlines
and optimises it once. That saves a third of the time that a training step takes to compile.

It reaches into numba where numba promises nothing, so `jit.py` uses it with the versions that it was tried with alone.
"""

from typing import Any

from numba.core import codegen, compiler, compiler_machinery, typed_passes
from numba.core.cpu import _dynfunc


class _Code(codegen.JITCodeLibrary):
    """A function's code, for callers to link."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(typed_passes.NativeLowering):
    _name = "native_lowering_for_callers"

    def run_pass(self, state: Any) -> bool:
        state.library = _Code(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # numba knows a compiled function by an object that Python could call. This one leads nowhere
        module, name = lowered.fndesc.lookup_module(), lowered.fndesc.qualname.rpartition(".")[2]
        function = _dynfunc.make_function(module, name, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(function, lowered.fndesc, [state.library])
        state["cr"] = compiler._LowerResult(lowered.fndesc, lowered.call_helper, cfunc=function, env=lowered.env)
        return True


class CalleeCompiler(compiler.CompilerBase):
    """A `pipeline_class` for numba."""

    def define_pipelines(self) -> list:
        default = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager = compiler_machinery.PassManager("callee")
        for step, what in default.passes:
            manager.add_pass(_Lowering if step is typed_passes.NativeLowering else step, what)
        manager.finalize()
        return [manager]
