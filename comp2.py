import sys, traceback
class F:
    def find_spec(self, name, path, target=None):
        if name=="torch": traceback.print_stack(limit=12)
sys.meta_path.insert(0,F())
exec(compile(open("/tmp/st/comp.py").read().replace("import inspect",""),"/tmp/st/comp.py","exec"))
